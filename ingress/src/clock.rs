//! The only place where this process reads the time; everything else takes it as an argument.

use chrono::{DateTime, Utc};

/// The time, by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
