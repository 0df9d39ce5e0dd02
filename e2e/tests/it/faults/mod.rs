//! Faults of every part, after which everything accepted has taken effect exactly once, in order.
//!
//! The long ones are marked `#[ignore]`: `make test-faults` runs all of them.

mod accept;
mod alone;
mod broker;
mod cluster;
mod crash;
mod database;
pub(crate) mod figures;
mod half_there;
mod janitor;
mod locks;
mod moving;
mod orders;
mod outage;
mod ownership;
mod pause;
mod poison;
mod refusals;
mod refused;
mod restart;
pub(crate) mod restore;
mod restore_live;
mod scale;
mod soak;
mod triggers;
mod unreachable;
