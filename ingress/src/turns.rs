//! Few bundles on their way at once are full ones. A message costs the broker and its disk the
//! same, however many callbacks are in it, so what waits for its turn makes all others faster.
//! While there is little to wait for, nothing waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// How many bundles are on their way at once, over all partitions, under load.
const AT_ONCE: usize = 4;
/// Load begins above so many callbacks that are not confirmed yet. With fewer, bundles would not
/// become full by waiting.
const LOAD: usize = 32;
/// A bundle that takes longer than this is no longer counted, so that a partition without a leader
/// does not hold up the others.
const COUNTED: Duration = Duration::from_millis(20);

/// The turns of all partitions, handed out in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Semaphore,
    unconfirmed: AtomicUsize,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { free: Semaphore::new(AT_ONCE), unconfirmed: AtomicUsize::new(0) }
    }

    /// Counts a callback until it is dropped.
    pub(crate) fn count(self: &Arc<Self>) -> Unconfirmed {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        Unconfirmed(Arc::clone(self))
    }

    /// Waits for a turn, under load.
    pub(crate) async fn take(&self) -> Turn<'_> {
        if self.unconfirmed.load(Ordering::Relaxed) <= LOAD {
            return Turn(None);
        }
        match self.free.acquire().await {
            Ok(permit) => Turn(Some(permit)),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }
}

/// A callback that is not confirmed yet.
#[derive(Debug)]
pub(crate) struct Unconfirmed(Arc<Turns>);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.0.unconfirmed.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A turn to publish a bundle; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(Option<SemaphorePermit<'a>>);

impl Turn<'_> {
    /// Ends the turn when it has lasted too long. Never returns.
    pub(crate) async fn lapse(self) -> Infallible {
        sleep(COUNTED).await;
        drop(self.0);
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_its_bundle_or_when_that_takes_too_long() {
        let turns = Arc::new(Turns::new());
        let _load: Vec<_> = (0..=LOAD).map(|_| turns.count()).collect();
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(turns.take().now_or_never().unwrap());
        }
        assert!(turns.take().now_or_never().is_none());
        taken.pop();
        taken.push(turns.take().now_or_never().unwrap());
        assert!(turns.take().now_or_never().is_none());

        let never_published = futures::future::join_all(taken.into_iter().map(Turn::lapse));
        tokio::select! {
            _ = never_published => panic!("a turn that has lapsed is not over"),
            all = futures::future::join_all((0..AT_ONCE).map(|_| turns.take())) => {
                assert_eq!(all.len(), AT_ONCE);
            }
        }
    }

    #[tokio::test]
    async fn nothing_waits_for_its_turn_without_load() {
        let turns = Arc::new(Turns::new());
        let mut light: Vec<_> = (0..LOAD).map(|_| turns.count()).collect();
        let taken: Vec<_> =
            (0..2 * AT_ONCE).map(|_| turns.take().now_or_never().unwrap()).collect();
        light.push(turns.count());
        // Those that go without one take none from others.
        let under_load: Vec<_> =
            (0..AT_ONCE).map(|_| turns.take().now_or_never().unwrap()).collect();
        assert!(turns.take().now_or_never().is_none());
        light.pop();
        assert!(turns.take().now_or_never().is_some());
        drop((taken, under_load));
    }
}
