//! When an ingress was last heard of each partition.
//!
//! A ready ingress sends a tick to each partition that it can publish to, every second
//! ([`Partition::ticks_subject`]). Without a tick, nobody knows whether a job fell silent or could
//! not be heard.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use shared::partition::Partition;
use tokio::time::Instant;

/// The pause before another subscription, where one failed.
const RETRY: Duration = Duration::from_secs(1);

/// What a process has heard of the partitions that it serves.
#[derive(Debug, Default)]
pub struct Heard(Mutex<BTreeMap<Partition, Ear>>);

#[derive(Debug, Clone, Copy)]
struct Ear {
    /// When an ingress was last heard, or since when one is waited for.
    since: Instant,
    /// Whether that one counts: it was heard within the longest gap.
    is_heard: bool,
}

impl Heard {
    fn ears(&self) -> MutexGuard<'_, BTreeMap<Partition, Ear>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen. Where a watch goes on, an ingress was heard so long ago.
    pub(super) fn begin(&self, partition: Partition, heard: Option<Duration>) {
        let now = Instant::now();
        let since = heard.and_then(|ago| now.checked_sub(ago)).unwrap_or(now);
        self.ears().insert(partition, Ear { since, is_heard: heard.is_some() });
    }

    /// The partition is another worker's.
    pub(crate) fn end(&self, partition: Partition) {
        self.ears().remove(&partition);
    }

    fn tick(&self, partition: Partition) {
        if let Some(ear) = self.ears().get_mut(&partition) {
            *ear = Ear { since: Instant::now(), is_heard: true };
        }
    }

    /// Whether an ingress was heard, and not too long ago. Once it was too long, only the next tick
    /// counts.
    pub(super) fn is_heard(&self, partition: Partition, longest_gap: Duration) -> bool {
        let mut ears = self.ears();
        let Some(ear) = ears.get_mut(&partition) else { return false };
        ear.is_heard &= ear.since.elapsed() <= longest_gap;
        ear.is_heard
    }

    /// For how long no ingress was heard of a partition; none if it is not listened to.
    pub(crate) fn unheard(&self, partition: Partition) -> Option<Duration> {
        self.ears().get(&partition).map(|ear| ear.since.elapsed())
    }

    /// The longest of all partitions.
    pub(crate) fn longest_unheard(&self) -> Duration {
        self.ears().values().map(|ear| ear.since.elapsed()).max().unwrap_or_default()
    }

    /// Listens to ticks for as long as it is polled.
    pub(super) async fn listen(&self, client: &Client, partition: Partition) -> Infallible {
        loop {
            match client.subscribe(partition.ticks_subject()).await {
                Ok(mut ticks) => {
                    while ticks.next().await.is_some() {
                        self.tick(partition);
                    }
                }
                Err(error) => tracing::warn!(%partition, %error, "ingresses can't be heard"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::partition::Layout;
    use tokio::time::advance;

    use super::*;

    const GAP: Duration = Duration::from_secs(45);

    #[tokio::test(start_paused = true)]
    async fn an_ingress_that_was_not_heard_for_too_long_must_be_heard_again() {
        let (heard, partition) = (Heard::default(), Layout::new(1, 1).first());
        assert!(!heard.is_heard(partition, GAP), "nobody listens");
        heard.begin(partition, None);
        assert!(!heard.is_heard(partition, GAP), "nobody has spoken");
        heard.tick(partition);
        advance(GAP).await;
        assert!(heard.is_heard(partition, GAP));
        advance(Duration::from_secs(1)).await;
        assert!(!heard.is_heard(partition, GAP));
        assert_eq!(heard.unheard(partition), Some(GAP + Duration::from_secs(1)));
        heard.tick(partition);
        assert!(heard.is_heard(partition, GAP));
        heard.end(partition);
        assert_eq!((heard.unheard(partition), heard.longest_unheard()), (None, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_has_heard_what_its_predecessor_heard_and_no_more() {
        let (heard, partition) = (Heard::default(), Layout::new(1, 1).first());
        advance(GAP * 2).await;
        heard.begin(partition, Some(GAP - Duration::from_secs(5)));
        assert!(heard.is_heard(partition, GAP));
        advance(Duration::from_secs(6)).await;
        assert!(!heard.is_heard(partition, GAP));
        assert_eq!(heard.longest_unheard(), GAP + Duration::from_secs(1));
    }
}
