//! The replay window.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// How far the time of a callback may be from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The distance allowed in both directions, inclusive.
    pub window: Duration,
    /// Whether a callback without a time is refused.
    pub require_timestamp: bool,
}

impl ReplayWindow {
    /// Judges the signed time of a signature, if it has one; nothing if it is outside the window
    /// `now`.
    pub(super) fn judge(
        self,
        now: DateTime<Utc>,
        signed_at: Option<DateTime<Utc>>,
    ) -> Option<InTime> {
        let is_in_time = signed_at.is_none_or(|signed_at| self.contains(now, signed_at));
        is_in_time.then_some(InTime(signed_at))
    }

    /// Whether a callback that arrives `now` is inside the window, by the time in its body and by
    /// the signed time that [`verify`](super::verify()) has judged.
    #[must_use]
    pub fn allows(
        self,
        now: DateTime<Utc>,
        signed_at: Option<DateTime<Utc>>,
        sent_at: Option<DateTime<Utc>>,
    ) -> bool {
        match sent_at {
            Some(sent_at) => self.contains(now, sent_at),
            None => signed_at.is_some() || !self.require_timestamp,
        }
    }

    fn contains(self, now: DateTime<Utc>, sent_at: DateTime<Utc>) -> bool {
        let window = TimeDelta::from_std(self.window).unwrap_or(TimeDelta::MAX);
        now.signed_duration_since(sent_at).abs() <= window
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { window: Duration::from_secs(300), require_timestamp: false }
    }
}

/// The signed time of a signature, if it has one, after judgement: only [`ReplayWindow::judge`]
/// makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InTime(Option<DateTime<Utc>>);

impl InTime {
    pub(super) fn time(self) -> Option<DateTime<Utc>> {
        self.0
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
                assert_eq!(lax.allows(now, signed_at, sent_at), holds, "{sent_at:?}");
                assert_eq!(strict.allows(now, signed_at, sent_at), holds, "{sent_at:?}");
            }
        }
        assert!(lax.allows(now, None, None));
        assert!(!strict.allows(now, None, None));
        assert!(strict.allows(now, at(0), None));
    }
}
