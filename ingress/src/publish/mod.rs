//! From a verified callback to the stream's confirmation.
//!
//! A task for each partition puts callbacks together and publishes them, one bundle at a time. All
//! tasks share a limiter, which makes bundles full under load. Another one tells the partitions'
//! owners, every second, that callbacks could be published.

mod bundle;
mod confirm;
mod limiter;

mod bundler;
mod ticks;

pub(crate) use self::bundle::{Envelope, Stored};
pub(crate) use self::bundler::Bundlers;
pub(crate) use self::ticks::tick;
