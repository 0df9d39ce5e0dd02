//! All SQL, as plain functions over a connection or a transaction.
//!
//! # Errors
//! A function here returns the database's [`DbErr`] as it is. A statement that failed had no effect;
//! a commit that failed may have had one. [`StoreError`] tells what comes back on every attempt from
//! what to retry.

pub mod accept;
pub mod audit;
pub mod batch;
pub mod connection;
pub mod dead_letters;
pub mod liveness;
pub mod migration;
pub mod observe;
pub mod partitions;
pub mod prune;
pub mod read;
mod rows;
pub mod schema;

use sea_orm::{DbErr, RuntimeErr};

/// A database error, sorted by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The same statement fails on every attempt: bad data or a violated constraint.
    #[error("the database refuses it: {0}")]
    Deterministic(#[source] DbErr),
    /// Anything else: back off and retry.
    #[error("the database failed: {0}")]
    Transient(#[source] DbErr),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        if is_deterministic(&error) { Self::Deterministic(error) } else { Self::Transient(error) }
    }
}

/// SQLSTATE classes 22 (data exception) and 23 (integrity constraint violation), and SQLite's
/// constraint errors (primary result code 19).
fn is_deterministic(error: &DbErr) -> bool {
    let (DbErr::Conn(runtime) | DbErr::Exec(runtime) | DbErr::Query(runtime)) = error else {
        return false;
    };
    let RuntimeErr::SqlxError(error) = runtime else { return false };
    let Some(database) = error.as_database_error() else { return false };
    let Some(code) = database.code() else { return false };
    if database.try_downcast_ref::<sea_orm::sqlx::sqlite::SqliteError>().is_some() {
        code.parse::<i32>().is_ok_and(|code| code & 0xff == 19)
    } else {
        code.starts_with("22") || code.starts_with("23")
    }
}
