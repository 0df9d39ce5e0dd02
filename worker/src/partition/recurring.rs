//! Failures of the database that come back.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A failure that has come back for this many leases, without a commit in between, does not pass by
/// itself.
const LEASES: u32 = 6;
/// A partition says again after this time that it is stuck.
const REMIND: Duration = Duration::from_secs(30);

/// What the database has failed with since the partition's last commit, and since when.
#[derive(Debug, Default)]
pub(super) struct Recurring {
    since: HashMap<String, Instant>,
    said: Option<Instant>,
}

impl Recurring {
    /// Whether somebody must hear of this failure now.
    pub(super) fn must_be_said(&mut self, identity: String, lease: Duration) -> bool {
        let now = Instant::now();
        let since = *self.since.entry(identity).or_insert(now);
        let is_due = self.said.is_none_or(|said| now - said >= REMIND);
        let must_be_said = is_due && now - since >= lease.saturating_mul(LEASES);
        if must_be_said {
            self.said = Some(now);
        }
        must_be_said
    }

    /// A batch was committed, or the partition is another worker's now.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_failure_that_comes_back_for_long_is_said_and_not_all_the_time() {
        let lease = Duration::from_secs(10);
        let mut recurring = Recurring::default();
        let mut said = Vec::new();
        for second in 0..120 {
            // Two that take turns; and one that came once, and comes again after the commit.
            let identity = if second % 2 == 0 { "42501" } else { "55P03" };
            if recurring.must_be_said(identity.into(), lease) {
                said.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [60, 90]);
        assert!(!recurring.must_be_said("57014".into(), lease));
        recurring.clear();
        assert!(!recurring.must_be_said("42501".into(), lease));
    }
}
