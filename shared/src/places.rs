//! A bounded number of places. Who holds one and keeps it waiting loses it to who comes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a place may be kept waiting before another may have it.
pub const GRACE: Duration = Duration::from_secs(1);

/// The places.
#[derive(Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    /// The permits of places that are kept waiting, the longest first.
    waiting: Mutex<BTreeMap<Since, Deposit>>,
    count: AtomicU64,
}

/// When the waiting began, and a number that tells equal times apart.
type Since = (Instant, u64);

#[derive(Debug)]
struct Deposit {
    permit: OwnedSemaphorePermit,
    lost: Arc<Losing>,
}

/// How a place is told that it is lost.
#[derive(Debug, Default)]
pub struct Losing {
    told: Notify,
    /// The permit of one that was only asked to leave: it is free once the place is dropped.
    kept: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Losing {
    /// Waits until the place is lost.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let free = Arc::new(Semaphore::new(places));
        Self(Arc::new(Inner { free, waiting: Mutex::default(), count: AtomicU64::new(0) }))
    }

    /// A place that is free, or else the one that has been kept waiting for the longest, if that
    /// is longer than [`GRACE`].
    #[must_use]
    pub fn try_take(&self) -> Option<Place> {
        self.try_free().or_else(|| {
            let Deposit { permit, lost } = self.0.evict()?;
            lost.told.notify_one();
            Some(self.place(permit))
        })
    }

    /// Tells the one that has kept its place waiting for the longest, if that is longer than
    /// [`GRACE`], to leave. The place is free when it has been dropped.
    pub fn ask_to_leave(&self) {
        if let Some(Deposit { permit, lost }) = self.0.evict() {
            *lock(&lost.kept) = Some(permit);
            lost.told.notify_one();
        }
    }

    /// A place, if one is free.
    #[must_use]
    pub fn try_free(&self) -> Option<Place> {
        Arc::clone(&self.0.free).try_acquire_owned().ok().map(|permit| self.place(permit))
    }

    /// Waits for a place that is free, and takes none from anybody.
    pub async fn free(&self) -> Place {
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => self.place(permit),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let lost = Arc::default();
        Place { inner: Arc::clone(&self.0), held: Held::Busy(permit), lost }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn evict(&self) -> Option<Deposit> {
        let mut waiting = lock(&self.waiting);
        let longest = waiting.first_entry().filter(|entry| entry.key().0.elapsed() >= GRACE)?;
        Some(longest.remove())
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    inner: Arc<Inner>,
    held: Held,
    lost: Arc<Losing>,
}

#[derive(Debug)]
enum Held {
    Busy(OwnedSemaphorePermit),
    Waiting(Since),
    Lost,
}

/// Somebody else has the place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the place was given to another")]
pub struct Lost;

impl Place {
    /// From now on the place is kept waiting, and may be lost.
    pub fn wait(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Lost) {
            Held::Busy(permit) => {
                let since = (Instant::now(), self.inner.count.fetch_add(1, Ordering::Relaxed));
                let deposit = Deposit { permit, lost: Arc::clone(&self.lost) };
                lock(&self.inner.waiting).insert(since, deposit);
                Held::Waiting(since)
            }
            held => held,
        };
    }

    /// From now on the place is used, and can't be lost.
    ///
    /// # Errors
    /// [`Lost`] when it already was.
    pub fn work(&mut self) -> Result<(), Lost> {
        if let Held::Waiting(since) = self.held {
            let deposit = lock(&self.inner.waiting).remove(&since);
            self.held = deposit.map_or(Held::Lost, |deposit| Held::Busy(deposit.permit));
        }
        if matches!(self.held, Held::Lost) { Err(Lost) } else { Ok(()) }
    }

    /// Tells when the place is lost.
    #[must_use]
    pub fn lost(&self) -> Arc<Losing> {
        Arc::clone(&self.lost)
    }

    /// Waits for a future, and keeps the place waiting if that is not there at once.
    ///
    /// # Errors
    /// [`Lost`], as soon as the place is.
    pub async fn wait_for<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T, Lost> {
        let mut awaited = pin!(awaited);
        if let Some(value) = awaited.as_mut().now_or_never() {
            return Ok(value);
        }
        self.wait();
        let lost = self.lost();
        tokio::select! {
            value = awaited => self.work().map(|()| value),
            () = lost.told() => Err(Lost),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Held::Waiting(since) = self.held {
            lock(&self.inner.waiting).remove(&since);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_used_is_never_lost() {
        let places = Places::new(1);
        let mut place = places.try_take().unwrap();
        advance(GRACE * 10).await;
        assert!(places.try_take().is_none());
        assert_eq!(place.wait_for(ready(7)).await, Ok(7));
        place.wait();
        place.work().unwrap();
        advance(GRACE * 10).await;
        assert!(places.try_take().is_none());
        drop(place);
        assert!(places.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_kept_its_place_waiting_for_the_longest_loses_it() {
        let places = Places::new(2);
        let (mut first, mut second) = (places.free().await, places.free().await);
        second.wait();
        advance(GRACE / 2).await;
        first.wait();
        advance(GRACE / 4).await;
        assert!(places.try_take().is_none(), "both have their grace");
        advance(GRACE / 4).await;
        let third = places.try_take().expect("the second has lost its place");
        assert_eq!(second.work(), Err(Lost));
        second.lost().told().await;
        assert!(places.try_take().is_none());
        assert_eq!(first.work(), Ok(()));
        drop((second, third));
        assert!(places.try_take().is_some(), "a lost place is not given back twice");
        let _held = places.try_take();
        assert!(places.try_take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_something_else_hears_that_its_place_is_lost() {
        let places = Places::new(1);
        let mut place = places.free().await;
        let comes = async {
            sleep(GRACE).await;
            let taken = places.try_take().expect("its grace has ended");
            sleep(GRACE).await;
            drop(taken);
        };
        let (lost, ()) = tokio::join!(place.wait_for(pending::<()>()), comes);
        assert_eq!(lost, Err(Lost));
        assert_eq!(place.wait_for(sleep(GRACE)).await, Err(Lost), "for ever");
        let mut place = places.free().await;
        assert_eq!(place.wait_for(sleep(GRACE)).await, Ok(()), "nobody came");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_to_leave_keeps_its_place_until_it_is_gone() {
        let places = Places::new(1);
        let mut place = places.free().await;
        place.wait();
        places.ask_to_leave();
        advance(GRACE).await;
        places.ask_to_leave();
        place.lost().told().await;
        assert_eq!(place.work(), Err(Lost));
        assert!(places.try_take().is_none());
        drop(place);
        assert!(places.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_dropped_while_it_waits_is_free() {
        let places = Places::new(1);
        let mut place = places.free().await;
        place.wait();
        drop(place);
        let place = places.try_take();
        assert!(place.is_some() && places.try_take().is_none());
    }
}
