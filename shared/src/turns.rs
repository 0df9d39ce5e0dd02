//! Turns under load.
//!
//! A message costs the broker, and a batch costs the database, a fixed amount, however many callbacks
//! are in it. Few large ones are faster for everybody than many small ones at once. So under load
//! only some are under way at a time, and the others grow meanwhile. Without load nothing waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// When there are turns, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Load begins above this many counted callbacks.
    pub load: usize,
    /// How many have a turn at a time.
    pub at_once: usize,
    /// Whoever takes longer than this gives the turn up, so that one that is stuck holds up no other.
    pub longest: Duration,
}

/// The turns of a process. They are fair: first come, first served.
#[derive(Debug)]
pub struct Turns {
    rule: Rule,
    free: Semaphore,
    callbacks: AtomicUsize,
}

impl Turns {
    /// Turns by this rule.
    #[must_use]
    pub fn new(rule: Rule) -> Arc<Self> {
        let (free, callbacks) = (Semaphore::new(rule.at_once), AtomicUsize::new(0));
        Arc::new(Self { rule, free, callbacks })
    }

    /// Counts callbacks, from when they wait until they are done and the guard is dropped.
    #[must_use]
    pub fn count(self: &Arc<Self>, callbacks: usize) -> Counted {
        self.callbacks.fetch_add(callbacks, Ordering::Relaxed);
        Counted { turns: Arc::clone(self), callbacks }
    }

    /// How many callbacks are counted.
    #[must_use]
    pub fn counted(&self) -> usize {
        self.callbacks.load(Ordering::Relaxed)
    }

    /// Waits for a turn; without load there is nothing to wait for.
    pub async fn take(&self) -> Turn<'_> {
        if self.counted() <= self.rule.load {
            return Turn::not_needed();
        }
        match self.free.acquire().await {
            Ok(permit) => Turn(Some((permit, self.rule.longest))),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }
}

/// Callbacks that are counted.
#[derive(Debug)]
pub struct Counted {
    turns: Arc<Turns>,
    callbacks: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.turns.callbacks.fetch_sub(self.callbacks, Ordering::Relaxed);
    }
}

/// A turn; given back when it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(Option<(SemaphorePermit<'a>, Duration)>);

impl Turn<'_> {
    /// The turn of who needs none.
    #[must_use]
    pub const fn not_needed() -> Self {
        Self(None)
    }

    /// Whether others wait until it is given back.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.0.is_some()
    }

    /// Gives the turn back after [`Rule::longest`]. Never returns.
    pub async fn expire(self) -> Infallible {
        if let Some((permit, longest)) = self.0 {
            sleep(longest).await;
            drop(permit);
        }
        std::future::pending().await
    }
}
