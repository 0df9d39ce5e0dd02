//! Limits the bundles in flight, over all partitions.
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
    unconfirmed: AtomicUsize,
}

impl PublishLimiter {
    pub(super) fn new() -> Self {
        Self { free: Semaphore::new(MAX_BUNDLES), unconfirmed: AtomicUsize::new(0) }
    }

    /// Counts a callback as unconfirmed until the guard is dropped.
    pub(super) fn count(self: &Arc<Self>) -> Unconfirmed {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        Unconfirmed(Arc::clone(self))
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
pub(super) struct Unconfirmed(Arc<PublishLimiter>);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.0.unconfirmed.fetch_sub(1, Ordering::Relaxed);
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
        let limiter = Arc::new(PublishLimiter::new());
        let _load: Vec<_> = (0..=LOAD).map(|_| limiter.count()).collect();
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
        let limiter = Arc::new(PublishLimiter::new());
        let mut light: Vec<_> = (0..LOAD).map(|_| limiter.count()).collect();
        let permits: Vec<_> =
            (0..2 * MAX_BUNDLES).map(|_| limiter.acquire().now_or_never().unwrap()).collect();
        light.push(limiter.count());
        // Those that went without one took none from others.
        let under_load: Vec<_> =
            (0..MAX_BUNDLES).map(|_| limiter.acquire().now_or_never().unwrap()).collect();
        assert!(limiter.acquire().now_or_never().is_none());
        light.pop();
        assert!(limiter.acquire().now_or_never().is_some());
        drop((permits, under_load));
    }
}
