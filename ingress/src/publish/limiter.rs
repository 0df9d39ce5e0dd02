//! Limits the bundles in flight, over all partitions, and each partition's part of the callbacks
//! that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shared::turns::{Counted, Rule, Turn, Turns};

/// The most bundles in flight under load.
const MAX_BUNDLES: usize = 4;
/// Load begins above this many unconfirmed callbacks. With fewer, waiting would not fill bundles.
const LOAD: usize = 32;
/// A bundle that takes longer than this is no longer counted, so that a partition without a leader
/// does not hold up the others.
const PERMIT_LIMIT: Duration = Duration::from_millis(20);

/// The limiter of all partitions.
#[derive(Debug)]
pub(super) struct PublishLimiter {
    turns: Arc<Turns>,
    /// The most unconfirmed callbacks.
    capacity: usize,
}

impl PublishLimiter {
    pub(super) fn new(capacity: usize) -> Self {
        let rule = Rule { load: LOAD, at_once: MAX_BUNDLES, longest: PERMIT_LIMIT };
        Self { turns: Turns::new(rule), capacity }
    }

    /// Counts a callback as unconfirmed, in all and of its partition, until the guard is dropped.
    pub(super) fn count(&self, of_partition: &Arc<AtomicUsize>) -> Unconfirmed {
        of_partition.fetch_add(1, Ordering::Relaxed);
        Unconfirmed { _in_all: self.turns.count(1), of_partition: Arc::clone(of_partition) }
    }

    /// Whether a partition, which is not the only one, may have another unconfirmed callback: as many
    /// as are free. So a stream that takes nothing gets at most half of the room, a second one at
    /// most half of the rest.
    pub(super) fn has_room(&self, of_partition: &AtomicUsize) -> bool {
        let free = self.capacity.saturating_sub(self.turns.counted());
        of_partition.load(Ordering::Relaxed) < free
    }

    /// Waits for permission to publish a bundle; without load there is nothing to wait for.
    pub(super) async fn acquire(&self) -> Turn<'_> {
        self.turns.take().await
    }
}

/// A callback that is not confirmed yet.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    _in_all: Counted,
    of_partition: Arc<AtomicUsize>,
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.of_partition.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_permit_ends_with_its_bundle_or_when_that_takes_too_long() {
        let (limiter, of_partition) = (PublishLimiter::new(1024), Arc::default());
        let _load: Vec<_> = (0..=LOAD).map(|_| limiter.count(&of_partition)).collect();
        let mut permits = Vec::new();
        for _ in 0..MAX_BUNDLES {
            permits.push(limiter.acquire().now_or_never().unwrap());
        }
        assert!(limiter.acquire().now_or_never().is_none());
        permits.pop();
        permits.push(limiter.acquire().now_or_never().unwrap());
        assert!(limiter.acquire().now_or_never().is_none());

        let never_published = futures::future::join_all(permits.into_iter().map(Turn::expire));
        tokio::select! {
            _ = never_published => panic!("an expired permit returned"),
            all = futures::future::join_all((0..MAX_BUNDLES).map(|_| limiter.acquire())) => {
                assert_eq!(all.len(), MAX_BUNDLES);
            }
        }
    }

    #[tokio::test]
    async fn nothing_waits_for_a_permit_without_load() {
        let (limiter, of_partition) = (PublishLimiter::new(1024), Arc::default());
        let mut light: Vec<_> = (0..LOAD).map(|_| limiter.count(&of_partition)).collect();
        let permits: Vec<_> =
            (0..2 * MAX_BUNDLES).map(|_| limiter.acquire().now_or_never().unwrap()).collect();
        light.push(limiter.count(&of_partition));
        // Those that went without one took none from others.
        let under_load: Vec<_> =
            (0..MAX_BUNDLES).map(|_| limiter.acquire().now_or_never().unwrap()).collect();
        assert!(limiter.acquire().now_or_never().is_none());
        light.pop();
        assert!(limiter.acquire().now_or_never().is_some());
        drop((permits, under_load));
    }

    #[test]
    fn streams_that_take_nothing_leave_room_for_the_others() {
        let limiter = PublishLimiter::new(100);
        let mut stuck = Vec::new();
        for expected in [50, 25, 13, 6] {
            let (of_partition, before) = (Arc::default(), stuck.len());
            while limiter.has_room(&of_partition) {
                stuck.push(limiter.count(&of_partition));
            }
            assert_eq!(stuck.len() - before, expected);
        }
        stuck.truncate(20);
        assert!(limiter.has_room(&AtomicUsize::new(79)));
        assert!(!limiter.has_room(&AtomicUsize::new(80)));
    }
}
