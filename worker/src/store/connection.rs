//! Connecting to SQLite or PostgreSQL, and what makes each of them durable and safe.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::sqlx::ConnectOptions as _;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use shared::secret::{ExposeSecret, Secret};
use shared::settings::InFile;
use url::Url;

use super::pool::{self, Connections, Pool};

const EXPECTED: &str =
    "must be like sqlite:ackline.db?mode=rwc or postgres://user:password@host:5432/name";
/// The permissions of an SQLite file: jobs are their owner's.
const PRIVATE: u32 = 0o600;
/// How long a statement may take on PostgreSQL, and how long SQLite waits for its write lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command may pause within a transaction on PostgreSQL.
const CHANGE_IDLE_LIMIT: Duration = Duration::from_secs(3);
/// Connections of one process to PostgreSQL: few, so that batches grow under load.
const MAX_CONNECTIONS: u32 = 4;
/// Connections of one process for metrics, console and API.
const LOOK_CONNECTIONS: u32 = 2;
/// How long a statement on those may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is waited for.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(10);
/// How the server finds out that the other end of a connection is gone: within half a minute.
const KEEPALIVE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

/// The database that `DATABASE_URL` names.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// A file on this machine, with one worker process.
    Sqlite {
        /// The whole address.
        url: Secret<str>,
        /// The file.
        path: PathBuf,
    },
    /// A server that many workers share.
    Postgres {
        /// The whole address.
        url: Secret<str>,
        /// Where the password is, if it is not in the address.
        password: Option<InFile>,
    },
}

impl std::str::FromStr for DatabaseUrl {
    /// Deliberately does not quote the text, which may hold a password.
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url.starts_with("sqlite:") {
            let options: SqliteConnectOptions = url.parse().map_err(|_| EXPECTED)?;
            let path = options.get_filename().to_owned();
            let is_file = !path.as_os_str().is_empty() && !url.contains("mode=memory");
            // The driver gives in-memory databases such a name.
            if !is_file || path.to_string_lossy().contains(":memory:") || is_in_memory(&path) {
                return Err("an SQLite database must be a file: sqlite:ackline.db?mode=rwc");
            }
            return Ok(Self::Sqlite { url: url.to_owned().into(), path });
        }
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if is_postgres && url.parse::<PgConnectOptions>().is_ok() {
            return Ok(Self::Postgres { url: url.to_owned().into(), password: None });
        }
        Err(EXPECTED)
    }
}

impl DatabaseUrl {
    /// The same, with the password that is in a file.
    ///
    /// # Errors
    /// The file cannot be used, or the address has no place for a password. The message quotes
    /// neither.
    pub fn with_password(self, file: InFile) -> Result<Self, String> {
        match self {
            Self::Sqlite { .. } => Err("SQLite has no password".into()),
            Self::Postgres { url, .. } => {
                let parsed = Url::parse(url.expose_secret()).map_err(|_| EXPECTED)?;
                if parsed.password().is_some()
                    || parsed.query_pairs().any(|(name, _)| name == "password")
                {
                    return Err("DATABASE_URL holds a password too: leave one of them".into());
                }
                file.password().map_err(|unusable| unusable.to_string())?;
                Ok(Self::Postgres { url, password: Some(file) })
            }
        }
    }
}

fn is_in_memory(path: &Path) -> bool {
    path.to_string_lossy().starts_with("file:sqlx-in-memory")
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To create the schema, without a time limit.
    Migrate,
    /// To read. A missing database is not created.
    Read,
    /// To read repeatedly beside this process's owners, for a short time each.
    Look,
    /// To change rows on an operator's request.
    Change,
    /// To own partitions, with a lease of this long.
    Own(Duration),
    /// To renew leases of this long.
    Renew(Duration),
}

/// Why a database cannot be reached. The text has no password.
#[derive(Debug, thiserror::Error)]
#[error("{}{cause}", address.as_ref().map(|address| format!("{address}: ")).unwrap_or_default())]
pub struct ConnectError {
    /// Where it was looked for, if that is a server.
    pub(super) address: Option<String>,
    /// Why.
    pub(super) cause: String,
}

/// An owner's connections.
#[derive(Debug, Clone)]
pub struct Owned {
    /// Those for batches.
    pub db: Pool,
    /// Those for renewals, which must not wait for batches. SQLite has only one.
    pub renewals: Pool,
    /// Which of them are used.
    pub connections: Connections,
}

/// Connects in order to own partitions, with a lease of this long.
///
/// # Errors
/// The database cannot be reached or opened.
pub async fn own(url: &DatabaseUrl, lease: Duration) -> Result<Owned, ConnectError> {
    let connections = Connections::to(postgres(url, Purpose::Own(lease))?);
    let (db, options) = open(url, Purpose::Own(lease), &connections).await?;
    let db = connections.own(db, options);
    let renewals = match url {
        DatabaseUrl::Sqlite { .. } => db.clone(),
        DatabaseUrl::Postgres { .. } => {
            let (renewals, options) = open(url, Purpose::Renew(lease), &connections).await?;
            connections.own(renewals, options)
        }
    };
    Ok(Owned { db, renewals, connections })
}

/// Connects.
///
/// # Errors
/// The database cannot be reached or opened.
pub async fn connect(
    url: &DatabaseUrl,
    purpose: Purpose,
) -> Result<DatabaseConnection, ConnectError> {
    open(url, purpose, &Connections::to(None)).await.map(|(db, _)| db)
}

async fn open(
    url: &DatabaseUrl,
    purpose: Purpose,
    connections: &Connections,
) -> Result<(DatabaseConnection, ConnectOptions), ConnectError> {
    let mut options = match url {
        DatabaseUrl::Sqlite { url, path } => {
            if creates(url.expose_secret(), purpose) {
                create_private(path)?;
            }
            let mut options = sqlite(url, purpose);
            connections.watch_sqlite(&mut options);
            options
        }
        DatabaseUrl::Postgres { url: address, .. } => {
            let mut options = ConnectOptions::new(address.expose_secret());
            options.max_connections(match purpose {
                Purpose::Look => LOOK_CONNECTIONS,
                Purpose::Renew(_) => 1,
                _ => MAX_CONNECTIONS,
            });
            connections.watch(&mut options, purpose);
            if let Some(postgres) = postgres(url, purpose)? {
                pool::connect_once(&postgres).await?;
                options.map_sqlx_postgres_opts(move |_| postgres.clone());
            }
            options.connect_lazy(true);
            options
        }
    };
    options.acquire_timeout(match purpose {
        Purpose::Renew(lease) => lease,
        _ => ACQUIRE_LIMIT,
    });
    // Statements are logged with their values, which are other people's data.
    options.sqlx_logging(false);
    match Database::connect(options.clone()).await {
        Ok(opened) => Ok((opened, options)),
        Err(error) => Err(ConnectError { address: None, cause: pool::innermost(&error) }),
    }
}

fn sqlite(url: &Secret<str>, purpose: Purpose) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.expose_secret());
    // SQLite has one writer, hence one connection.
    options.max_connections(match purpose {
        // Readers see what is committed while the writer writes.
        Purpose::Look => LOOK_CONNECTIONS,
        _ => 1,
    });
    options.map_sqlx_sqlite_opts(move |options| {
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(STATEMENT_TIMEOUT);
        if matches!(purpose, Purpose::Read | Purpose::Look | Purpose::Change) {
            options.create_if_missing(false)
        } else {
            options
        }
    });
    options
}

/// How to connect to PostgreSQL for this purpose; none if the database is SQLite.
fn postgres(url: &DatabaseUrl, purpose: Purpose) -> Result<Option<PgConnectOptions>, ConnectError> {
    let DatabaseUrl::Postgres { url, password } = url else { return Ok(None) };
    let unusable = |cause: String| ConnectError { address: None, cause };
    let mut options: PgConnectOptions =
        url.expose_secret().parse().map_err(|_| unusable(format!("DATABASE_URL {EXPECTED}")))?;
    if let Some(password) = password {
        let password = password.password().map_err(|why| unusable(why.to_string()))?;
        options = options.password(password.expose_secret());
    }
    let mut settings = Vec::new();
    let mut limit = |name, limit: Duration| {
        settings.push((name, limit.as_millis().max(1).to_string()));
    };
    // Nor may a row that somebody else has locked hold up an owner for long: it uses one of the few
    // connections, and does not renew the lease.
    match purpose {
        Purpose::Migrate => {}
        Purpose::Read => limit("statement_timeout", STATEMENT_TIMEOUT),
        Purpose::Look => limit("statement_timeout", LOOK_TIMEOUT),
        Purpose::Change => {
            limit("statement_timeout", STATEMENT_TIMEOUT);
            // A paused command must not block an owner.
            limit("idle_in_transaction_session_timeout", CHANGE_IDLE_LIMIT);
        }
        Purpose::Own(lease) => {
            limit("statement_timeout", STATEMENT_TIMEOUT);
            // A paused owner must not hold its locks for longer than its lease.
            limit("idle_in_transaction_session_timeout", lease / 2);
            limit("lock_timeout", lease / 4);
        }
        Purpose::Renew(lease) => {
            limit("statement_timeout", lease);
            limit("lock_timeout", lease / 4);
        }
    }
    if matches!(purpose, Purpose::Own(_) | Purpose::Renew(_)) {
        // The server notices that a worker has vanished, and releases its locks.
        settings.extend(KEEPALIVE.map(|(name, value)| (name, value.to_owned())));
    }
    if matches!(purpose, Purpose::Own(_) | Purpose::Renew(_) | Purpose::Look) {
        // Every query of a worker has its index. Without statistics, as in a young database,
        // PostgreSQL would still prefer to read whole tables, and a plan made while a table was
        // empty would do so for ever. Commands may need the whole table.
        settings.push(("plan_cache_mode", "force_custom_plan".to_owned()));
        settings.push(("enable_seqscan", "off".to_owned()));
    }
    let options = options.application_name("ackline-worker").options(settings);
    Ok(Some(options.disable_statement_logging()))
}

/// Whether SQLite would create the file.
fn creates(url: &str, purpose: Purpose) -> bool {
    let may = matches!(purpose, Purpose::Migrate | Purpose::Own(_));
    may && url.contains("mode=rwc")
}

/// Creates the file, if it does not exist, so that only its owner can read it: SQLite would make it
/// readable to everybody. The files beside it get the same permissions from SQLite.
fn create_private(path: &Path) -> Result<(), ConnectError> {
    let created = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path);
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            let cause = format!("the database file {} can't be created: {error}", path.display());
            Err(ConnectError { address: None, cause })
        }
    }
}

/// Begins a transaction that may write. On SQLite it takes the write lock at once, because a
/// transaction that begins as a reader cannot always be upgraded.
pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    db.begin_with_options(TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    })
    .await
}

/// Lets deferred constraints and triggers be checked by each statement of this transaction, where
/// they can be told apart, instead of by its commit. SQLite has only deferred foreign keys, and no
/// such statement.
pub async fn check_at_once(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared("SET CONSTRAINTS ALL IMMEDIATE").await?;
    }
    Ok(())
}

/// A lock beside an SQLite file: the one that makes this process its only worker, or its only move.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "the lock lives as long as the file")] File);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "ACK-304: another worker process runs on this SQLite database; SQLite has one, PostgreSQL many"
    )]
    Taken,
    /// The lock file cannot be created.
    #[error("ACK-305: the lock file {path} can't be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Takes the lock beside an SQLite file. The system releases it when the process ends, in whatever
/// way.
///
/// # Errors
/// [`LockError`].
pub fn lock(url: &DatabaseUrl) -> Result<Option<FileLock>, LockError> {
    match url {
        DatabaseUrl::Sqlite { path, .. } => lock_beside(path, ".lock").map(Some),
        DatabaseUrl::Postgres { .. } => Ok(None),
    }
}

/// Takes a lock beside a file, whose name ends like this.
pub(super) fn lock_beside(path: &Path, end: &str) -> Result<FileLock, LockError> {
    // A link to the file must lead to the same lock.
    let mut name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push(end);
    let path = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(&path)
        .map_err(|source| LockError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock(file)),
        Err(TryLockError::WouldBlock) => Err(LockError::Taken),
        Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_must_be_a_file() {
        for bad in [
            "postgres://u:p@h:notaport/x",
            "sqlite:a.db?mode=maybe",
            "sqlite::memory:",
            "sqlite:",
            "sqlite:x?mode=memory",
            "mysql://x",
            "ackline.db",
        ] {
            assert!(bad.parse::<DatabaseUrl>().is_err(), "{bad}");
        }
        let DatabaseUrl::Sqlite { path, .. } = "sqlite://a/b.db?mode=rwc".parse().unwrap() else {
            panic!("not SQLite")
        };
        assert_eq!(path, Path::new("a/b.db"));
    }

    #[test]
    fn a_password_has_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            InFile { setting: "--database-password-file", path }
        };
        let with = |url: &str, file| url.parse::<DatabaseUrl>().unwrap().with_password(file);
        let url = "postgres://u@h/x";
        let Ok(DatabaseUrl::Postgres { password: Some(kept), .. }) =
            with(url, file("good", "hunter2\n"))
        else {
            panic!("no password")
        };
        assert_eq!(kept.password().unwrap().expose_secret(), "hunter2");

        let missing = InFile { path: dir.path().join("missing"), ..file("good", "hunter2") };
        for (url, file, why) in [
            (url, missing, "can't be read"),
            (url, file("empty", "\n"), "is empty"),
            ("postgres://u:hunter2@h/x", file("good", "hunter2"), "DATABASE_URL holds a password"),
            ("postgres://u@h/x?password=hunter2", file("good", "hunter2"), "holds a password"),
            ("sqlite:a.db", file("good", "hunter2"), "SQLite has no password"),
        ] {
            let error = with(url, file).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }
}
