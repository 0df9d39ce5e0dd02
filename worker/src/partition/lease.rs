//! What a renewal of a process's leases tells the owners.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::store::batch::Ownership;
use crate::store::partitions::Held;

/// The result of a renewal of all leases.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The partitions that were free to be taken, if this process had room for one.
    pub free: Arc<HashSet<i32>>,
    /// When the renewal began.
    pub at: Instant,
    /// What it found to be ours.
    pub owned: Arc<HashMap<i32, Held>>,
}

impl Renewed {
    /// What is known before the first renewal.
    #[must_use]
    pub fn nothing() -> Self {
        Self { free: Arc::default(), at: Instant::now(), owned: Arc::default() }
    }

    /// Whether an attempt to acquire a partition can succeed.
    pub(super) fn may_be_acquired(&self, partition: i32) -> bool {
        self.free.contains(&partition) || self.owned.contains_key(&partition)
    }

    /// Why an owner can't go on, if its row is not as it left it `since` then. A renewal that began
    /// earlier may have come before its last commit.
    pub(super) fn contradicts(&self, mine: &Ownership, since: Instant) -> Option<Contradiction> {
        if self.at <= since {
            return None;
        }
        match self.owned.get(&mine.partition) {
            Some(held) if held.epoch != mine.epoch => Some(Contradiction::Fenced),
            // Whoever commits in our epoch is us, so the database itself was taken back.
            Some(held) if held.applied_seq != mine.applied_seq => Some(Contradiction::Restored {
                found: held.applied_seq,
                committed: mine.applied_seq,
            }),
            Some(_) => None,
            None => Some(Contradiction::Fenced),
        }
    }

    /// The same, for an owner that learns where its row is now: the renewal has moved it.
    pub(super) fn check(&self, mine: &mut Ownership, since: Instant) -> Option<Contradiction> {
        let contradiction = self.contradicts(mine, since);
        if contradiction.is_none()
            && self.at > since
            && let Some(held) = self.owned.get(&mine.partition)
        {
            mine.place = held.place();
        }
        contradiction
    }
}

/// Why an owner can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Contradiction {
    /// Somebody else owns the partition now.
    #[error("another worker owns the partition")]
    Fenced,
    /// The checkpoint is not the one that this owner committed.
    #[error("the checkpoint is {found}, but {committed} was committed: the database was restored")]
    Restored {
        /// The checkpoint that the renewal found.
        found: i64,
        /// The checkpoint that the owner committed last.
        committed: i64,
    },
}
