//! Tells the owners of partitions that callbacks could have come.
//!
//! Without a word of any ingress an owner presumes no silent job failed. Ticks are no messages of the
//! stream: there they would be most of what an idle deployment stores and applies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::bundler::Bundlers;
use crate::link::State;

const INTERVAL: Duration = Duration::from_secs(1);
/// A partition gets no tick for this long after a bundle was not confirmed, or until one is.
const HINDERED_FOR: Duration = Duration::from_secs(60);

/// Whether a partition's stream takes callbacks, as its last bundle found.
#[derive(Debug, Clone, Default)]
pub(super) struct Hindrance(Arc<Mutex<Option<Instant>>>);

impl Hindrance {
    /// A bundle was not confirmed.
    pub(super) fn begin(&self) {
        self.set(Some(Instant::now()));
    }

    /// A bundle was confirmed.
    pub(super) fn end(&self) {
        self.set(None);
    }

    /// Whether senders may have been refused.
    pub(super) fn lasts(&self) -> bool {
        let since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < HINDERED_FOR)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Sends ticks every second while callbacks can be published. Never returns.
pub(crate) async fn tick(bundlers: Arc<Bundlers>, link: watch::Receiver<State>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let State::Up(up) = link.borrow().clone() else { continue };
        let client = up.jetstream.client();
        let partitions = up.layout.all().filter(|partition| !bundlers.is_hindered(*partition));
        for partition in partitions {
            let sent = client.publish(partition.ticks_subject(), Bytes::new());
            // A connection that takes no more is lost in a moment.
            let _ = timeout(INTERVAL, sent).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hindrance_ends_with_a_confirmation_or_when_nothing_was_sent_for_long() {
        let hindrance = Hindrance::default();
        assert!(!hindrance.lasts());
        hindrance.begin();
        assert!(hindrance.lasts());
        hindrance.end();
        assert!(!hindrance.lasts());
        hindrance.begin();
        tokio::time::advance(HINDERED_FOR).await;
        assert!(!hindrance.lasts());
    }
}
