//! Owning a partition, and reading its stream.

pub mod lease;
pub mod metrics;
pub mod prefetch;
pub mod share;
pub mod turns;
pub mod worker;

pub(crate) mod delivered;
pub(crate) mod look_ahead;

pub mod feed;
pub mod identify;

pub mod decision_log;
mod hearing;
pub mod janitor;
mod recurring;
pub mod renewal;

pub mod ownership;

pub mod consuming;
