//! The rules of the worker: no server, no database.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod batch;
mod event;
mod events;
mod properties;
mod table;
mod verdict;
