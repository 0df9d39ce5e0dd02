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
pub mod generations;
pub mod liveness;
pub mod migration;
pub mod observe;
pub mod partitions;
pub mod prune;
pub mod read;
mod rows;
pub mod schema;

use std::borrow::Cow;

use sea_orm::sqlx::error::DatabaseError;
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
    let Some((error, code)) = code(error) else { return false };
    if error.try_downcast_ref::<sea_orm::sqlx::sqlite::SqliteError>().is_some() {
        code.parse::<i32>().is_ok_and(|code| code & 0xff == 19)
    } else {
        code.starts_with("22") || code.starts_with("23")
    }
}

/// Whether somebody else held a row locked for too long (SQLSTATE 55P03, lock_not_available).
#[must_use]
pub fn is_locked(error: &DbErr) -> bool {
    code(error).is_some_and(|(_, code)| code == "55P03")
}

/// The database's own error in this one, and its code.
fn code(error: &DbErr) -> Option<(&dyn DatabaseError, Cow<'_, str>)> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    let error = error.as_database_error()?;
    Some((error, error.code()?))
}
