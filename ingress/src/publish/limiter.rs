//! Limits the bundles in flight, over all partitions, and each partition's part of the callbacks
//! that wait.
//!
//! A message costs the broker and its disk the same, however many callbacks are in it. So few full
//! bundles are faster for everybody than many small ones. While there is no load, nothing waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// The most bundles in flight under load.
const MAX_BUNDLES: usize = 4;
/// Load begins above this many unconfirmed callbacks. With fewer, waiting would not fill bundles.
const LOAD: usize = 32;
/// A bundle that takes longer than this is no longer counted, so that a partition without a leader
/// does not hold up the others.
const PERMIT_LIMIT: Duration = Duration::from_millis(20);

/// The limiter of all partitions. It is fair: first come, first served.
#[derive(Debug)]
pub(super) struct PublishLimiter {
    free: Semaphore,
    /// The most unconfirmed callbacks, and how many there are.
    capacity: usize,
    unconfirmed: AtomicUsize,
}

impl PublishLimiter {
    pub(super) fn new(capacity: usize) -> Self {
        let (free, unconfirmed) = (Semaphore::new(MAX_BUNDLES), AtomicUsize::new(0));
        Self { free, capacity, unconfirmed }
    }

    /// Counts a callback as unconfirmed, in all and of its partition, until the guard is dropped.
    pub(super) fn count(self: &Arc<Self>, of_partition: &Arc<AtomicUsize>) -> Unconfirmed {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        of_partition.fetch_add(1, Ordering::Relaxed);
        Unconfirmed { limiter: Arc::clone(self), of_partition: Arc::clone(of_partition) }
    }

    /// Whether a partition, which is not the only one, may have another unconfirmed callback: as many
    /// as are free. So a stream that takes nothing gets at most half of the room, a second one at
    /// most half of the rest.
    pub(super) fn has_room(&self, of_partition: &AtomicUsize) -> bool {
        let free = self.capacity.saturating_sub(self.unconfirmed.load(Ordering::Relaxed));
        of_partition.load(Ordering::Relaxed) < free
    }

    /// Waits for permission to publish a bundle; without load there is nothing to wait for.
    pub(super) async fn acquire(&self) -> Permit<'_> {
        if self.unconfirmed.load(Ordering::Relaxed) <= LOAD {
            return Permit(None);
        }
        match self.free.acquire().await {
            Ok(permit) => Permit(Some(permit)),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }
}

/// A callback that is not confirmed yet.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    limiter: Arc<PublishLimiter>,
    of_partition: Arc<AtomicUsize>,
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.limiter.unconfirmed.fetch_sub(1, Ordering::Relaxed);
        self.of_partition.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Permission to publish one bundle; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(Option<SemaphorePermit<'a>>);

impl Permit<'_> {
    /// Gives the permit back after [`PERMIT_LIMIT`]. Never returns.
    pub(super) async fn expire(self) -> Infallible {
        sleep(PERMIT_LIMIT).await;
        drop(self.0);
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_permit_ends_with_its_bundle_or_when_that_takes_too_long() {
        let (limiter, of_partition) = (Arc::new(PublishLimiter::new(1024)), Arc::default());
        let _load: Vec<_> = (0..=LOAD).map(|_| limiter.count(&of_partition)).collect();
        let mut permits = Vec::new();
        for _ in 0..MAX_BUNDLES {
            permits.push(limiter.acquire().now_or_never().unwrap());
        }
        assert!(limiter.acquire().now_or_never().is_none());
        permits.pop();
        permits.push(limiter.acquire().now_or_never().unwrap());
        assert!(limiter.acquire().now_or_never().is_none());

        let never_published = futures::future::join_all(permits.into_iter().map(Permit::expire));
        tokio::select! {
            _ = never_published => panic!("an expired permit returned"),
            all = futures::future::join_all((0..MAX_BUNDLES).map(|_| limiter.acquire())) => {
                assert_eq!(all.len(), MAX_BUNDLES);
            }
        }
    }

    #[tokio::test]
    async fn nothing_waits_for_a_permit_without_load() {
        let (limiter, of_partition) = (Arc::new(PublishLimiter::new(1024)), Arc::default());
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
        let limiter = Arc::new(PublishLimiter::new(100));
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
