//! How long a partition has been watched without a gap.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// How long a partition has been watched: the broker answered, and everything that it held was
/// applied.
#[derive(Debug)]
pub(super) struct Watch {
    longest_gap: Duration,
    /// How long earlier owners had watched when this one began.
    before: Duration,
    /// Since when this one has.
    since: Option<Instant>,
    /// When the broker last answered: by our clock, and by its own.
    answered: Option<(Instant, DateTime<Utc>)>,
}

impl Watch {
    /// Continues the watch of earlier owners, if there is one.
    pub(super) fn new(longest_gap: Duration, before: Option<Duration>, now: Instant) -> Self {
        let since = before.map(|_| now);
        Self { longest_gap, before: before.unwrap_or_default(), since, answered: None }
    }

    /// The broker has answered, with its time. `Err` is why the watch must begin again.
    pub(super) fn hear(&mut self, now: Instant, there: DateTime<Utc>) -> Result<(), &'static str> {
        let Some((before, there_before)) = self.answered.replace((now, there)) else {
            return Ok(());
        };
        let here = now.duration_since(before);
        if here > self.longest_gap {
            return Err("nothing was heard for too long");
        }
        let here = TimeDelta::from_std(here).unwrap_or(TimeDelta::MAX);
        let off = there.signed_duration_since(there_before) - here;
        // The jobs' times come from the old clock; they are comparable only once all of them are
        // new.
        if off.abs().to_std().is_ok_and(|off| off > self.longest_gap) {
            return Err("the broker's clock has been set");
        }
        Ok(())
    }

    pub(super) fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Ends the watch: what was watched no longer counts.
    pub(super) fn forget(&mut self) {
        self.answered = None;
        self.before = Duration::ZERO;
        self.since = None;
    }

    pub(super) fn watched(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| self.before + now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(45);

    fn there(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
    }

    #[test]
    fn a_watch_counts_from_when_it_begins() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = Watch::new(GAP, None, begun);
        assert_eq!(watch.hear(at(0), there(0)), Ok(()));
        assert_eq!(watch.watched(at(30)), Duration::ZERO, "not up to date yet");
        assert!(!watch.has_begun());
        watch.begin(at(30));
        assert_eq!(watch.hear(at(40), there(40)), Ok(()));
        assert_eq!(watch.watched(at(50)), Duration::from_secs(20));
    }

    #[test]
    fn a_successor_goes_on_with_what_was_watched() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = Watch::new(GAP, Some(Duration::from_secs(100)), begun);
        assert!(watch.has_begun());
        assert_eq!(watch.watched(at(10)), Duration::from_secs(110));
        watch.forget();
        assert_eq!(watch.watched(at(20)), Duration::ZERO);
        assert!(!watch.has_begun());
        watch.begin(at(20));
        assert_eq!(watch.watched(at(21)), Duration::from_secs(1));
    }

    #[test]
    fn a_gap_and_a_clock_that_is_set_break_a_watch() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for (here, there_then, breaks) in [
            (45, 45, false),
            (46, 46, true),
            (3, 48, false),
            (3, 49, true),
            (3, 600, true),
            (3, -42, false),
            (3, -43, true),
        ] {
            let mut watch = Watch::new(GAP, Some(Duration::ZERO), begun);
            assert_eq!(watch.hear(at(0), there(0)), Ok(()));
            let heard = watch.hear(at(here), there(there_then));
            assert_eq!(heard.is_err(), breaks, "{here} here, {there_then} there");
        }
    }
}
