//! The pure rules: what the stream says, and what that does to rows. No I/O, no clock, no
//! randomness.

pub mod decision;
pub mod event;

pub mod transition;

pub mod known_refusals;

pub mod batch;

pub mod stop_reason;
pub mod verdict;
