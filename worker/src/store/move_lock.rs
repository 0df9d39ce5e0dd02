//! The lock that makes a command the only one that moves a database's streams. Two would close, delete
//! and open each other's.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, Statement};
use tokio::time::{Instant, sleep};

use super::connection::{DatabaseUrl, FileLock, LockError, begin, lock_beside};

/// PostgreSQL's name of the lock: "ackline" in ASCII. Its locks belong to one database.
const KEY: i64 = 0x61_636b_6c69_6e65;
/// A server may take a moment to notice that a command that was killed holds it no more.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);

/// The lock. The server, or the system, releases it when the process ends, in whatever way.
#[derive(Debug)]
pub enum MoveLock {
    /// Beside an SQLite file.
    File(FileLock),
    /// In PostgreSQL: a transaction keeps its connection, through a pooler as well.
    Transaction(DatabaseTransaction),
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum NoMoveLock {
    /// Somebody else has it.
    #[error("another command moves the streams of this database: wait for it, or end it")]
    Taken,
    /// The database did not give it.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// The file can't be locked.
    #[error(transparent)]
    File(LockError),
}

/// Takes the lock of the database at this address, over one of its connections.
///
/// # Errors
/// [`NoMoveLock`].
pub async fn take(url: &DatabaseUrl, db: &DatabaseConnection) -> Result<MoveLock, NoMoveLock> {
    let given_up = Instant::now() + PATIENCE;
    loop {
        match attempt(url, db).await {
            Err(NoMoveLock::Taken) if Instant::now() < given_up => sleep(RETRY).await,
            taken => return taken,
        }
    }
}

async fn attempt(url: &DatabaseUrl, db: &DatabaseConnection) -> Result<MoveLock, NoMoveLock> {
    if let DatabaseUrl::Sqlite { path, .. } = url {
        return match lock_beside(path, ".move.lock") {
            Ok(lock) => Ok(MoveLock::File(lock)),
            Err(LockError::Taken) => Err(NoMoveLock::Taken),
            Err(error) => Err(NoMoveLock::File(error)),
        };
    }
    let transaction = begin(db).await?;
    let asked = format!("SELECT pg_try_advisory_xact_lock({KEY})");
    let asked = Statement::from_string(db.get_database_backend(), asked);
    let row = transaction.query_one_raw(asked).await?;
    let is_taken = row.map(|row| row.try_get_by_index(0)).transpose()?;
    if is_taken == Some(true) {
        Ok(MoveLock::Transaction(transaction))
    } else {
        Err(NoMoveLock::Taken)
    }
}
