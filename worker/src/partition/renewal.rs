//! The renewal of a process's leases, and what it tells the owners.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sea_orm::DbErr;
use tokio::sync::watch;
use tokio::time::Instant;

use super::metrics;
use super::worker::Worker;
use crate::store::batch::Ownership;
use crate::store::partitions::{self, Held};

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

/// Says that this process is alive, divides the partitions among all that are, renews its leases,
/// and looks for partitions that are free while it has room for one. In passing it removes the rows
/// of processes that are long dead.
///
/// `renewed` is called after each renewal.
pub async fn renew(
    worker: Arc<Worker>,
    name: String,
    renewals: watch::Sender<Renewed>,
    renewed: impl Fn(),
) {
    let Worker { db, id, lease, .. } = &*worker;
    let lease = *lease;
    let mut ticks = tokio::time::interval(lease / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at = Instant::now();
        let renewal = async {
            partitions::keep_alive(db, id, &name, lease).await?;
            let workers = partitions::count_workers(db, lease).await?;
            // The row of a process that crashed looks alive for a while.
            let alive = if worker.alone { 1 } else { workers.alive.unsigned_abs() };
            worker.share.divide(worker.partitions, alive);
            let owned = partitions::renew(db, id, lease).await?;
            let has_room = worker.share.has_room();
            let free = if has_room { partitions::free(db).await? } else { HashSet::new() };
            if workers.long_dead > 0
                && let Err(error) = partitions::bury(db, lease).await
            {
                tracing::warn!(%error, "the rows of workers that are long dead stay for now");
            }
            Ok::<_, DbErr>((owned, free))
        };
        // A database that vanished without a word must not hold the renewals up when it is back.
        match tokio::time::timeout(lease, renewal).await {
            Ok(Ok((owned, free))) => {
                metrics::owned(owned.len());
                renewals.send_replace(Renewed { free: Arc::new(free), at, owned: Arc::new(owned) });
                renewed();
            }
            Ok(Err(error)) => tracing::warn!(%error, "the leases are not renewed"),
            Err(_) => tracing::warn!("the leases are not renewed: no answer for a whole lease"),
        }
    }
}
