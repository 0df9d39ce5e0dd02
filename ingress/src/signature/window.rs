//! The replay window.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Refused;

/// How old, or how far ahead, a callback may be that says when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The distance allowed in both directions, inclusive.
    pub window: Duration,
    /// Whether a callback that doesn't say is refused.
    pub require_timestamp: bool,
}

impl ReplayWindow {
    /// Whether a time of sending is believed `now`.
    #[must_use]
    pub fn contains(self, now: DateTime<Utc>, sent_at: DateTime<Utc>) -> bool {
        let window = TimeDelta::from_std(self.window).unwrap_or(TimeDelta::MAX);
        now.signed_duration_since(sent_at).abs() <= window
    }

    /// Judges a callback that arrives `now`, by the time that its signature names, which
    /// [`verify`](super::verify) has judged, and the one that its body does.
    ///
    /// # Errors
    /// [`Refused::Replay`] when the body's time is outside the window, or when there is neither
    /// although one is required.
    pub fn check(
        self,
        now: DateTime<Utc>,
        signed_at: Option<DateTime<Utc>>,
        sent_at: Option<DateTime<Utc>>,
    ) -> Result<(), Refused> {
        let holds = match sent_at {
            Some(sent_at) => self.contains(now, sent_at),
            None => signed_at.is_some() || !self.require_timestamp,
        };
        if holds { Ok(()) } else { Err(Refused::Replay) }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { window: Duration::from_secs(300), require_timestamp: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_window_is_inclusive_in_both_directions() {
        let lax = ReplayWindow::for_tests();
        let strict = ReplayWindow { require_timestamp: true, ..lax };
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let at = |micros| Some(now + TimeDelta::microseconds(micros));
        for (sent_at, holds) in [
            (at(0), true),
            (at(300_000_000), true),
            (at(-300_000_000), true),
            (at(300_000_001), false),
            (at(-300_000_001), false),
        ] {
            for signed_at in [None, at(0)] {
                assert_eq!(lax.check(now, signed_at, sent_at).is_ok(), holds, "{sent_at:?}");
                assert_eq!(strict.check(now, signed_at, sent_at).is_ok(), holds, "{sent_at:?}");
            }
        }
        assert_eq!(lax.check(now, None, None), Ok(()));
        assert_eq!(strict.check(now, None, None), Err(Refused::Replay));
        assert_eq!(strict.check(now, at(0), None), Ok(()));
    }
}
