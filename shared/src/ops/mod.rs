//! The ops listener, for those who run Ackline: `/livez`, `/readyz`, `/metrics`, and what else a
//! program has to show; and its client, for those who have none.

pub mod client;
mod listener;

pub use self::listener::{Body, LIMITS, Readiness, Rest, nothing_else, serve};
