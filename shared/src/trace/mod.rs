//! Which trace a callback belongs to.

mod context;

pub use self::context::{TraceContext, TraceId, lenient};
