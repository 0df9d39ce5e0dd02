//! Small batches take turns under load.
//!
//! Without turns, the partitions of a process commit many small batches at once, which take the
//! processors that would accept callbacks. A full batch waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use shared::turns::{Rule, Turn, Turns};

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
#[must_use]
pub fn turns() -> Arc<Turns> {
    Turns::new(Rule { load: LOAD, at_once: SMALL, longest: TURN_LIMIT })
}

/// Waits for the turn of a batch that has been counted.
pub(super) async fn take(turns: &Turns, callbacks: usize) -> Turn<'_> {
    if callbacks >= FULL { Turn::not_needed() } else { turns.take().await }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_small_batches_wait_only_under_load_and_for_no_batch_that_takes_long() {
        let turns = turns();
        let needs_one = |callbacks| {
            let taken = take(&turns, callbacks).now_or_never();
            taken.map(|turn| turn.is_needed())
        };
        let counted = turns.count(LOAD);
        for small in [1, LOAD] {
            assert_eq!(needs_one(small), Some(false), "no load");
        }

        let more = turns.count(1);
        let first = take(&turns, 1).now_or_never().expect("the first turn is free");
        assert!(first.is_needed());
        assert_eq!(needs_one(FULL - 1), None, "there is one turn");
        assert_eq!(needs_one(FULL), Some(false), "a full batch waits");
        tokio::select! {
            never = first.expire() => match never {},
            next = take(&turns, 1) => assert!(next.is_needed(), "the first took too long"),
        }
        drop((counted, more));
        assert_eq!(needs_one(1), Some(false), "the load is over");
    }
}
