//! All SQL, as plain functions over a connection or a transaction.
//!
//! # Errors
//! A function here returns the database's [`DbErr`](sea_orm::DbErr) as it is. A statement that
//! failed had no effect; a commit that failed may have had one, unless the database answered that it
//! refuses it. [`Fault`](fault::Fault) tells what comes back on every attempt from what to retry.

pub mod accept;
pub mod audit;
pub mod batch;
pub mod connection;
pub mod dead_letters;
pub mod fault;
pub mod generations;
pub mod liveness;
pub mod migration;
pub mod move_lock;
pub mod observe;
pub mod partitions;
pub mod pool;
pub mod prune;
pub mod read;
mod rows;
pub mod schema;
