//! The rules of the worker, without any server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod batch;
mod events;
mod pages;
mod properties;
mod table;
