//! The ops listener, for operators: `/livez`, `/readyz`, `/metrics` and a program's other paths.
//! And a client for it, because the images have none.

pub mod client;
mod listener;

pub use self::listener::{Body, LIMITS, Readiness, Rest, nothing_else, serve};
