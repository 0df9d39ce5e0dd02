//! How many partitions a worker may own: a fair share of them all.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::partition::Partition;

/// A process's slots for partitions, as many as its fair share. A task that owns a partition, or
/// tries to, holds a slot.
#[derive(Debug, Default)]
pub struct Share(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    fair: usize,
    taken: BTreeSet<Partition>,
}

/// A slot; dropping it frees it.
#[derive(Debug)]
pub struct Slot {
    share: Arc<Share>,
    partition: Partition,
}

impl Share {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Divides the partitions among so many workers, rounding up, so that none is left over. Among
    /// none, this one gets none.
    pub fn divide(&self, partitions: u16, workers: u64) {
        let fair = if workers == 0 { 0 } else { u64::from(partitions).div_ceil(workers) };
        self.slots().fair = usize::try_from(fair).unwrap_or(usize::MAX);
    }

    /// Whether a slot is free.
    pub fn has_room(&self) -> bool {
        let slots = self.slots();
        slots.taken.len() < slots.fair
    }

    /// Takes a slot for a partition, if there is one.
    #[must_use]
    pub fn take(self: &Arc<Self>, partition: Partition) -> Option<Slot> {
        let mut slots = self.slots();
        if slots.taken.len() >= slots.fair || !slots.taken.insert(partition) {
            return None;
        }
        Some(Slot { share: Arc::clone(self), partition })
    }
}

impl Slot {
    /// Whether the partition exceeds the share: the share has shrunk, and the partitions with the
    /// lowest numbers fill it.
    #[must_use]
    pub fn is_surplus(&self) -> bool {
        let slots = self.share.slots();
        slots.taken.range(..self.partition).count() >= slots.fair
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.share.slots().taken.remove(&self.partition);
    }
}

#[cfg(test)]
mod tests {
    use shared::partition::Layout;

    use super::*;

    #[test]
    fn a_share_is_divided_fairly_and_rounded_up() {
        let share = Arc::new(Share::default());
        assert!(
            share.take(Layout::new(1, 4).first()).is_none(),
            "nothing before the first division"
        );
        for (partitions, workers, fair) in
            [(16, 1, 16), (16, 3, 6), (16, 16, 1), (16, 40, 1), (1, 2, 1), (4, 0, 0)]
        {
            share.divide(partitions, workers);
            let slots: Vec<_> =
                Layout::new(1, partitions).all().filter_map(|p| share.take(p)).collect();
            assert_eq!(slots.len(), fair, "{partitions} among {workers}");
        }
    }

    #[test]
    fn a_share_that_shrinks_has_a_surplus_until_it_is_given_back() {
        let share = Arc::new(Share::default());
        share.divide(4, 1);
        let mut slots: Vec<_> = Layout::new(1, 4).all().filter_map(|p| share.take(p)).collect();
        assert!(slots.iter().all(|slot| !slot.is_surplus()));
        share.divide(4, 2);
        let surplus: Vec<_> = slots.iter().map(Slot::is_surplus).collect();
        assert_eq!(surplus, [false, false, true, true]);
        slots.remove(0);
        assert!(share.take(Layout::new(1, 4).first()).is_none());
        let surplus: Vec<_> = slots.iter().map(Slot::is_surplus).collect();
        assert_eq!(surplus, [false, false, true]);
    }
}
