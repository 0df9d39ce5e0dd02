//! Starts the real parts of Ackline (nats-server, PostgreSQL, act, `ingress`, `worker`) for
//! whole-system tests and the demo. Nothing is mocked, every process ends with the one
//! that started it, and any number of tests may run at once.

#![allow(
    clippy::disallowed_methods,
    reason = "the harness plays the sender, whose clock is its own"
)]

pub mod certificates;
pub mod process;
mod terminal;
pub mod tools;
pub mod usage;

pub mod cluster;
pub mod collector;
pub mod nats;
pub mod port;
pub mod postgres;
pub mod proxy;

pub mod http;
pub mod stack;

pub mod compose;

pub mod act;
pub mod browser;
pub mod load;

pub mod check;
pub mod http_load;
pub mod pgbouncer;
pub mod plan;
pub mod silence_fixture;
pub mod soak;
