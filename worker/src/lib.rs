//! Worker: consumes each partition in order and applies it, exactly once in effect.
//!
//! A callback's way through this crate: `partition` owns a partition and reads its stream, `apply`
//! folds a batch by the pure `rules` and commits it through `store`, together with the checkpoint.
//! `liveness` finds the jobs that fell silent; `audit` proves what was applied; `observe` and `web`
//! show it; `process` is the daemon's life. `ARCHITECTURE.md` has the order in which these modules
//! depend on each other.

pub mod apply;
pub mod audit;
pub mod entity;
pub mod generation;
pub mod liveness;
pub mod observe;
pub mod partition;
pub mod process;
pub mod rules;
pub mod store;
pub mod web;
