//! Connecting to SQLite or PostgreSQL, and what makes each of them durable and safe.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use shared::secret::{ExposeSecret, Secret};
use shared::settings::InFile;
use url::Url;

const EXPECTED: &str =
    "must be like sqlite:ackline.db?mode=rwc or postgres://user:password@host:5432/name";
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
/// An idle connection is tested before use once it was unused for this long.
const TESTED_FOR: Duration = Duration::from_secs(1);

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
}

/// Connects.
///
/// # Errors
/// The database cannot be reached or opened.
pub async fn connect(url: &DatabaseUrl, purpose: Purpose) -> Result<DatabaseConnection, DbErr> {
    let mut options = match url {
        DatabaseUrl::Sqlite { url, .. } => {
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
        DatabaseUrl::Postgres { url, password } => {
            let password = password.as_ref().map(InFile::password).transpose();
            let password = password.map_err(|unusable| DbErr::Custom(unusable.to_string()))?;
            let mut options = ConnectOptions::new(url.expose_secret());
            options.max_connections(match purpose {
                Purpose::Look => LOOK_CONNECTIONS,
                _ => MAX_CONNECTIONS,
            });
            options.set_application_name("ackline-worker");
            // A connection that a batch has just returned works.
            options.test_before_acquire_if_idle_for(TESTED_FOR);
            if purpose != Purpose::Migrate {
                options.statement_timeout(match purpose {
                    Purpose::Look => LOOK_TIMEOUT,
                    _ => STATEMENT_TIMEOUT,
                });
            }
            let idle = match purpose {
                // A paused owner must not hold its locks for longer than its lease.
                Purpose::Own(lease) => Some(lease / 2),
                // Nor may a paused command block an owner.
                Purpose::Change => Some(CHANGE_IDLE_LIMIT),
                Purpose::Migrate | Purpose::Read | Purpose::Look => None,
            };
            let idle_ms = idle.map(|idle| idle.as_millis().max(1).to_string());
            // Nor may a row that somebody else has locked hold up an owner for long: it uses one of
            // the few connections, and does not renew the lease.
            let lock_ms = match purpose {
                Purpose::Own(lease) => Some((lease / 4).as_millis().max(1).to_string()),
                Purpose::Migrate | Purpose::Read | Purpose::Look | Purpose::Change => None,
            };
            // Every query of a worker has its index. Without statistics, as in a young database,
            // PostgreSQL would still prefer to read whole tables, and a plan made while a table was
            // empty would do so for ever. Commands may need the whole table.
            let plans = [("plan_cache_mode", "force_custom_plan"), ("enable_seqscan", "off")];
            let plans = matches!(purpose, Purpose::Own(_) | Purpose::Look).then_some(plans);
            options.map_sqlx_postgres_opts(move |options| {
                let options = options.options(plans.into_iter().flatten());
                let options = match &password {
                    Some(password) => options.password(password.expose_secret()),
                    None => options,
                };
                let limits = [
                    ("idle_in_transaction_session_timeout", idle_ms.as_deref()),
                    ("lock_timeout", lock_ms.as_deref()),
                ];
                options.options(limits.into_iter().filter_map(|(name, ms)| Some((name, ms?))))
            });
            options
        }
    };
    options.connect_timeout(Duration::from_secs(5)).acquire_timeout(Duration::from_secs(10));
    // Statements are logged with their values, which are other people's data.
    options.sqlx_logging(false);
    Database::connect(options).await
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

/// The lock that makes this process the only worker of an SQLite file.
#[derive(Debug)]
pub struct SoleWorker(#[expect(dead_code, reason = "the lock lives as long as the file")] File);

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
pub fn lock(url: &DatabaseUrl) -> Result<Option<SoleWorker>, LockError> {
    let DatabaseUrl::Sqlite { path, .. } = url else { return Ok(None) };
    // A link to the file must lead to the same lock.
    let mut name = path.canonicalize().unwrap_or_else(|_| path.clone()).into_os_string();
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
