//! How many partitions a worker may own: a fair share of them all.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::partition::Partition;

/// A process's places for partitions, as many as its fair share has. Whoever owns a partition, or
/// tries to, holds a place.
#[derive(Debug, Default)]
pub struct Share(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    fair: usize,
    taken: BTreeSet<Partition>,
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    share: Arc<Share>,
    partition: Partition,
}

impl Share {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Divides the partitions among the live workers, rounding up, so that none is left over.
    pub fn divide(&self, partitions: u16, workers: u64) {
        let fair = u64::from(partitions).div_ceil(workers.max(1));
        self.places().fair = usize::try_from(fair).unwrap_or(usize::MAX);
    }

    /// Whether a place is free.
    pub fn has_room(&self) -> bool {
        let places = self.places();
        places.taken.len() < places.fair
    }

    /// Takes a place for a partition, if there is one.
    #[must_use]
    pub fn take(self: &Arc<Self>, partition: Partition) -> Option<Place> {
        let mut places = self.places();
        if places.taken.len() >= places.fair || !places.taken.insert(partition) {
            return None;
        }
        Some(Place { share: Arc::clone(self), partition })
    }
}

impl Place {
    /// Whether others have a better claim to this partition: the share has shrunk, and the
    /// partitions of the lowest numbers fill it.
    #[must_use]
    pub fn is_surplus(&self) -> bool {
        let places = self.share.places();
        places.taken.range(..self.partition).count() >= places.fair
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.share.places().taken.remove(&self.partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_divided_fairly_and_rounded_up() {
        let share = Arc::new(Share::default());
        assert!(share.take(Partition::new(0)).is_none(), "nothing before the first division");
        for (partitions, workers, fair) in
            [(16, 1, 16), (16, 3, 6), (16, 16, 1), (16, 40, 1), (1, 2, 1), (4, 0, 4)]
        {
            share.divide(partitions, workers);
            let places: Vec<_> = Partition::all(partitions).filter_map(|p| share.take(p)).collect();
            assert_eq!(places.len(), fair, "{partitions} among {workers}");
        }
    }

    #[test]
    fn a_share_that_shrinks_has_a_surplus_until_it_is_given_back() {
        let share = Arc::new(Share::default());
        share.divide(4, 1);
        let mut places: Vec<_> = Partition::all(4).filter_map(|p| share.take(p)).collect();
        assert!(places.iter().all(|place| !place.is_surplus()));
        share.divide(4, 2);
        let surplus: Vec<_> = places.iter().map(Place::is_surplus).collect();
        assert_eq!(surplus, [false, false, true, true]);
        places.remove(0);
        assert!(share.take(Partition::new(0)).is_none());
        let surplus: Vec<_> = places.iter().map(Place::is_surplus).collect();
        assert_eq!(surplus, [false, false, true]);
    }
}
