//! The whole system: real processes, a real broker, real databases, a real workflow runner.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

mod browser;
mod expect;
mod harness;
mod raw;
mod site;

mod attacks;
mod bad_input;
mod broker_access;
mod door;
mod health;
mod https;
mod leaving;
mod limits;
mod metrics;
mod secrets;
mod senders;
mod traces;
mod workflow;

mod silence;

mod many_jobs;
mod many_workers;

mod audit;
mod cli;
mod database_roles;
mod rebuild;
mod round_trips;
mod up;

mod bench;

mod faults;

mod deployed;

mod console;
