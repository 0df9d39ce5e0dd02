//! The commands of those who run Ackline.

pub mod jobs;
pub mod migrate;
