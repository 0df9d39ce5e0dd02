//! Few bundles on their way at once are full ones. A message costs the broker and its disk the
//! same, however many callbacks are in it, so what waits for its turn makes all others faster.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

/// How many bundles are on their way at once, over all partitions.
const AT_ONCE: usize = 4;
/// A bundle that takes longer than this is no longer counted, so that a partition without a leader
/// does not hold up the others.
const COUNTED: Duration = Duration::from_millis(20);

/// The turns of all partitions, handed out in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self) -> Turn<'_> {
        match self.0.acquire().await {
            Ok(permit) => Turn(permit),
            // Nobody ever closes it.
            Err(_closed) => std::future::pending().await,
        }
    }
}

/// A turn to publish a bundle; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(SemaphorePermit<'a>);

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
        let turns = Turns::new();
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
}
