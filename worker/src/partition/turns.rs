//! Small batches take turns under load.
//!
//! A batch costs the database and this process a fixed amount, however many callbacks are in it.
//! Without turns, the partitions of a process commit many small batches at once, which take the
//! processors that would accept callbacks. So under load one small batch of the process is applied at
//! a time, and the others grow meanwhile. A full batch waits for nothing, and without load none does.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// A batch of so many callbacks is full: growing further would save little.
pub(super) const FULL: usize = 128;
/// Load begins above this many callbacks in the batches of all partitions.
const LOAD: usize = 64;
/// How many small batches are applied at a time under load.
const SMALL: usize = 1;
/// A batch that takes longer than this gives its turn up, so that one that waits for a lock holds up
/// no other partition.
const TURN_LIMIT: Duration = Duration::from_millis(100);

/// The turns of a process.
#[derive(Debug)]
pub struct Turns {
    small: Semaphore,
    /// Callbacks in batches that wait for their turn or are being applied.
    callbacks: AtomicUsize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { small: Semaphore::new(SMALL), callbacks: AtomicUsize::new(0) }
    }
}

impl Turns {
    /// Counts the callbacks of a batch, from when it could be applied until the guard is dropped.
    pub(super) fn count(&self, callbacks: usize) -> Counted<'_> {
        self.callbacks.fetch_add(callbacks, Ordering::Relaxed);
        Counted { turns: self, callbacks }
    }

    /// Waits for the turn of a batch that has been counted. Without load there is nothing to wait
    /// for.
    pub(super) async fn take(&self, callbacks: usize) -> Turn<'_> {
        if callbacks >= FULL || self.callbacks.load(Ordering::Relaxed) <= LOAD {
            return Turn(None);
        }
        // Nobody ever closes it.
        Turn(self.small.acquire().await.ok())
    }
}

/// The turn of a batch; given back when it is dropped. None for a batch that needs none.
#[derive(Debug)]
pub(super) struct Turn<'a>(pub(super) Option<SemaphorePermit<'a>>);

impl Turn<'_> {
    /// Gives the turn back after [`TURN_LIMIT`]. Never returns.
    pub(super) async fn expire(self) -> Infallible {
        sleep(TURN_LIMIT).await;
        drop(self.0);
        std::future::pending().await
    }
}

/// Callbacks that are counted.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    turns: &'a Turns,
    callbacks: usize,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.turns.callbacks.fetch_sub(self.callbacks, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_small_batches_wait_only_under_load_and_for_no_batch_that_takes_long() {
        let turns = Turns::default();
        let counted = turns.count(LOAD);
        for small in [1, LOAD] {
            assert!(matches!(turns.take(small).now_or_never(), Some(Turn(None))), "no load");
        }

        let more = turns.count(1);
        let first = turns.take(1).now_or_never().expect("the first turn is free");
        assert!(first.0.is_some());
        assert!(turns.take(FULL - 1).now_or_never().is_none(), "there is one turn");
        assert!(matches!(turns.take(FULL).now_or_never(), Some(Turn(None))), "a full batch waits");
        tokio::select! {
            never = first.expire() => match never {},
            next = turns.take(1) => assert!(next.0.is_some(), "the first took too long"),
        }
        drop((counted, more));
        assert!(matches!(turns.take(1).now_or_never(), Some(Turn(None))), "the load is over");
    }
}
