//! Small batches take turns under load.
//!
//! A batch costs the database and this process a fixed amount, however many callbacks are in it.
//! Without turns, the partitions of a process commit many small batches at once, which take the
//! processors that would accept callbacks. So under load one small batch of the process is applied at
//! a time, and the others grow meanwhile. A full batch waits for nothing, and without load none does.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A batch of so many callbacks is full: growing further would save little.
pub(super) const FULL: usize = 128;
/// Load begins above this many callbacks in the batches of all partitions.
const LOAD: usize = 64;
/// How many small batches are applied at a time under load.
const SMALL: usize = 1;

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
    pub(super) async fn take(&self, callbacks: usize) -> Option<SemaphorePermit<'_>> {
        if callbacks >= FULL || self.callbacks.load(Ordering::Relaxed) <= LOAD {
            return None;
        }
        // Nobody ever closes it.
        self.small.acquire().await.ok()
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

    #[test]
    fn only_small_batches_wait_and_only_under_load() {
        let turns = Turns::default();
        let counted = turns.count(LOAD);
        let light = [turns.take(1), turns.take(LOAD)].map(|taking| taking.now_or_never());
        assert!(light.iter().all(|turn| matches!(turn, Some(None))), "{light:?}");

        let more = turns.count(1);
        let first = turns.take(1).now_or_never().expect("the first turn is free");
        assert!(first.is_some());
        assert!(turns.take(FULL - 1).now_or_never().is_none(), "there is one turn");
        assert!(matches!(turns.take(FULL).now_or_never(), Some(None)), "a full batch waits");
        drop(first);
        assert!(turns.take(1).now_or_never().is_some());
        drop((counted, more));
        assert!(matches!(turns.take(1).now_or_never(), Some(None)), "the load is over");
    }
}
