//! Connecting to SQLite or PostgreSQL, and what makes each of them durable and safe.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

/// How long a statement of PostgreSQL may take, and how long SQLite waits for its writer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one process to PostgreSQL: few, so that batches grow by themselves under load.
const MAX_CONNECTIONS: u32 = 4;

/// Which database `DATABASE_URL` names. Shows itself without its text, which may hold a password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A file on this machine, written by one worker process.
    Sqlite {
        /// The whole address.
        url: String,
        /// The file.
        path: PathBuf,
    },
    /// A server that many workers share.
    Postgres {
        /// The whole address.
        url: String,
    },
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqlite { .. } => "SQLite",
            Self::Postgres { .. } => "PostgreSQL",
        })
    }
}

impl std::str::FromStr for DatabaseUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "must be like sqlite:ackline.db?mode=rwc or postgres://user:password@host:5432/name";
        if let Some(rest) = url.strip_prefix("sqlite:") {
            let path = rest.split('?').next().unwrap_or_default();
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains(":memory:") || rest.contains("mode=memory") {
                return Err("an SQLite database must be a file: sqlite:ackline.db?mode=rwc");
            }
            return Ok(Self::Sqlite { url: url.to_owned(), path: path.into() });
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres { url: url.to_owned() });
        }
        Err(EXPECTED)
    }
}

/// Connects.
///
/// # Errors
/// When the database can't be reached or opened.
pub async fn connect(url: &DatabaseUrl, lease: Duration) -> Result<DatabaseConnection, DbErr> {
    let options = match url {
        DatabaseUrl::Sqlite { url, .. } => {
            let mut options = ConnectOptions::new(url);
            // One connection is SQLite's one writer.
            options.max_connections(1).map_sqlx_sqlite_opts(|options| {
                options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(STATEMENT_TIMEOUT)
            });
            options
        }
        DatabaseUrl::Postgres { url } => {
            let mut options = ConnectOptions::new(url);
            // A paused owner must not hold its locks for longer than its lease.
            let idle_ms = (lease / 2).as_millis().max(1);
            options
                .max_connections(MAX_CONNECTIONS)
                .statement_timeout(STATEMENT_TIMEOUT)
                .set_application_name("ackline-worker")
                .map_sqlx_postgres_opts(move |options| {
                    options.options([(
                        "idle_in_transaction_session_timeout",
                        idle_ms.to_string().as_str(),
                    )])
                });
            options
        }
    };
    let mut options = options;
    options.connect_timeout(Duration::from_secs(5)).acquire_timeout(Duration::from_secs(10));
    // Statements are logged with their values, which are other people's data.
    options.sqlx_logging(false);
    Database::connect(options).await
}

/// Begins a transaction that may write; on SQLite it takes the writer's place at once, because a
/// transaction that begins as a reader can't always become one.
///
/// # Errors
/// When the database fails.
pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    db.begin_with_options(TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    })
    .await
}

/// Holds the place of the one worker process that an SQLite file has.
#[derive(Debug)]
pub struct SoleWorker(#[expect(dead_code, reason = "the lock lives as long as the file")] File);

/// Why this process can't be the one.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process is.
    #[error("another worker process runs on this SQLite database; SQLite has one, PostgreSQL many")]
    Taken,
    /// The lock file can't be made.
    #[error("the lock file {path} can't be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Takes the lock beside an SQLite file; the system releases it when the process ends, however.
///
/// # Errors
/// [`LockError`].
pub fn lock(url: &DatabaseUrl) -> Result<Option<SoleWorker>, LockError> {
    let DatabaseUrl::Sqlite { path, .. } = url else { return Ok(None) };
    let mut name = path.clone().into_os_string();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| LockError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(SoleWorker(file))),
        Err(TryLockError::WouldBlock) => Err(LockError::Taken),
        Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
    }
}
