//! A bounded number of slots, and who loses one when there are not enough.
//!
//! A slot that has been idle (its holder waits for a client) for longer than [`GRACE`] can be
//! evicted for a newcomer. A busy slot is never evicted.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a slot may be idle before it can be evicted.
pub const GRACE: Duration = Duration::from_secs(1);

/// The slots.
#[derive(Debug)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    /// The slots that are idle, the longest first.
    idle: Mutex<BTreeMap<Since, Idle>>,
    count: AtomicU64,
}

/// When a slot became idle, and a number that distinguishes equal times.
type Since = (Instant, u64);

#[derive(Debug)]
struct Idle {
    permit: OwnedSemaphorePermit,
    eviction: Arc<Eviction>,
}

/// How a slot's holder is told that it is lost.
#[derive(Debug, Default)]
pub struct Eviction {
    told: Notify,
    /// The permit of a slot whose holder was only asked to leave: it is free once the slot is
    /// dropped.
    kept: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Eviction {
    /// Waits until the slot is lost.
    pub async fn happened(&self) {
        self.told.notified().await;
    }
}

impl Slots {
    /// A number of slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let free = Arc::new(Semaphore::new(slots));
        Self(Arc::new(Inner { free, idle: Mutex::default(), count: AtomicU64::new(0) }))
    }

    /// A slot that is free, or else the one that has been idle for the longest, if that is longer
    /// than [`GRACE`].
    #[must_use]
    pub fn acquire_or_evict(&self) -> Option<Slot> {
        self.try_acquire().or_else(|| {
            let Idle { permit, eviction } = self.0.longest_idle()?;
            eviction.told.notify_one();
            Some(self.slot(permit))
        })
    }

    /// Asks the holder of the slot that has been idle for the longest, if that is longer than
    /// [`GRACE`], to leave. The slot is free when its holder has dropped it.
    pub fn ask_to_leave(&self) {
        if let Some(Idle { permit, eviction }) = self.0.longest_idle() {
            *lock(&eviction.kept) = Some(permit);
            eviction.told.notify_one();
        }
    }

    /// A slot, if one is free.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Slot> {
        Arc::clone(&self.0.free).try_acquire_owned().ok().map(|permit| self.slot(permit))
    }

    /// Waits for a slot that is free, and evicts nobody.
    pub async fn acquire(&self) -> Slot {
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => self.slot(permit),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        let eviction = Arc::default();
        Slot { inner: Arc::clone(&self.0), held: Held::Busy(permit), eviction }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn longest_idle(&self) -> Option<Idle> {
        let mut idle = lock(&self.idle);
        let longest = idle.first_entry().filter(|entry| entry.key().0.elapsed() >= GRACE)?;
        Some(longest.remove())
    }
}

/// A slot, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    inner: Arc<Inner>,
    held: Held,
    eviction: Arc<Eviction>,
}

#[derive(Debug)]
enum Held {
    Busy(OwnedSemaphorePermit),
    Idle(Since),
    Lost,
}

/// Another holder has the slot now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the slot was given to another")]
pub struct Evicted;

impl Slot {
    /// From now on the slot is idle, and can be evicted.
    pub fn set_idle(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Lost) {
            Held::Busy(permit) => {
                let since = (Instant::now(), self.inner.count.fetch_add(1, Ordering::Relaxed));
                let idle = Idle { permit, eviction: Arc::clone(&self.eviction) };
                lock(&self.inner.idle).insert(since, idle);
                Held::Idle(since)
            }
            held => held,
        };
    }

    /// From now on the slot is busy, and cannot be evicted.
    ///
    /// # Errors
    /// [`Evicted`] if it was evicted already: end what it was held for.
    pub fn set_busy(&mut self) -> Result<(), Evicted> {
        if let Held::Idle(since) = self.held {
            let idle = lock(&self.inner.idle).remove(&since);
            self.held = idle.map_or(Held::Lost, |idle| Held::Busy(idle.permit));
        }
        if matches!(self.held, Held::Lost) { Err(Evicted) } else { Ok(()) }
    }

    /// Tells when the slot is lost.
    #[must_use]
    pub fn eviction(&self) -> Arc<Eviction> {
        Arc::clone(&self.eviction)
    }

    /// Waits for a future. The slot is idle meanwhile, unless the future is ready at once.
    ///
    /// # Errors
    /// [`Evicted`], as soon as the slot is lost: end what it was held for.
    pub async fn idle_until<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T, Evicted> {
        let mut awaited = pin!(awaited);
        if let Some(value) = awaited.as_mut().now_or_never() {
            return Ok(value);
        }
        self.set_idle();
        let eviction = self.eviction();
        tokio::select! {
            value = awaited => self.set_busy().map(|()| value),
            () = eviction.happened() => Err(Evicted),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Held::Idle(since) = self.held {
            lock(&self.inner.idle).remove(&since);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_slot_is_never_lost() {
        let slots = Slots::new(1);
        let mut slot = slots.acquire_or_evict().unwrap();
        advance(GRACE * 10).await;
        assert!(slots.acquire_or_evict().is_none());
        assert_eq!(slot.idle_until(ready(7)).await, Ok(7));
        slot.set_idle();
        slot.set_busy().unwrap();
        advance(GRACE * 10).await;
        assert!(slots.acquire_or_evict().is_none());
        drop(slot);
        assert!(slots.acquire_or_evict().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_slot_that_was_idle_for_the_longest_is_lost_first() {
        let slots = Slots::new(2);
        let (mut first, mut second) = (slots.acquire().await, slots.acquire().await);
        second.set_idle();
        advance(GRACE / 2).await;
        first.set_idle();
        advance(GRACE / 4).await;
        assert!(slots.acquire_or_evict().is_none(), "both have their grace");
        advance(GRACE / 4).await;
        let third = slots.acquire_or_evict().expect("the second has lost its slot");
        assert_eq!(second.set_busy(), Err(Evicted));
        second.eviction().happened().await;
        assert!(slots.acquire_or_evict().is_none());
        assert_eq!(first.set_busy(), Ok(()));
        drop((second, third));
        assert!(slots.acquire_or_evict().is_some(), "a lost slot is not given back twice");
        let _held = slots.acquire_or_evict();
        assert!(slots.acquire_or_evict().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_something_else_hears_of_the_eviction() {
        let slots = Slots::new(1);
        let mut slot = slots.acquire().await;
        let comes = async {
            sleep(GRACE).await;
            let taken = slots.acquire_or_evict().expect("its grace has ended");
            sleep(GRACE).await;
            drop(taken);
        };
        let (lost, ()) = tokio::join!(slot.idle_until(pending::<()>()), comes);
        assert_eq!(lost, Err(Evicted));
        assert_eq!(slot.idle_until(sleep(GRACE)).await, Err(Evicted), "for ever");
        let mut slot = slots.acquire().await;
        assert_eq!(slot.idle_until(sleep(GRACE)).await, Ok(()), "nobody came");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_to_leave_keeps_its_slot_until_it_is_gone() {
        let slots = Slots::new(1);
        let mut slot = slots.acquire().await;
        slot.set_idle();
        slots.ask_to_leave();
        advance(GRACE).await;
        slots.ask_to_leave();
        slot.eviction().happened().await;
        assert_eq!(slot.set_busy(), Err(Evicted));
        assert!(slots.acquire_or_evict().is_none());
        drop(slot);
        assert!(slots.acquire_or_evict().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_dropped_while_it_is_idle_is_free() {
        let slots = Slots::new(1);
        let mut slot = slots.acquire().await;
        slot.set_idle();
        drop(slot);
        let slot = slots.acquire_or_evict();
        assert!(slot.is_some() && slots.acquire_or_evict().is_none());
    }
}
