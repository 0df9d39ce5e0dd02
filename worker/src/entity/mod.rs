//! The tables, as sea-orm sees them. Application code reads `jobs`; the rest is the worker's own.

pub mod dead_letter;
pub mod job;
pub mod job_event;
pub mod partition;
pub mod partition_gap;
pub mod worker;
