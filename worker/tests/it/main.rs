//! What the worker asks of a database, without any server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod error_codes;
mod pages;
