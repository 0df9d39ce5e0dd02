//! Whether this process hears the broker.

use std::time::Duration;

use async_nats::jetstream;
use shared::partition::Layout;
use shared::stream;
use tokio::time::{Instant, timeout};

/// When the broker was last heard.
#[derive(Debug)]
pub(super) struct Hearing {
    layout: Layout,
    /// The partition whose stream is asked for next. A single one may have no leader.
    turn: u16,
    heard: Instant,
    was_deaf: bool,
}

impl Hearing {
    /// Everything is well until a lease has passed.
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, turn: 0, heard: Instant::now(), was_deaf: false }
    }

    /// Whether the broker was not heard for a lease.
    pub(super) fn is_deaf(&mut self, lease: Duration) -> bool {
        let is_deaf = self.heard.elapsed() >= lease;
        match (self.was_deaf, is_deaf) {
            (false, true) => tracing::error!(
                "ACK-404: the broker has not answered for a whole lease: the partitions are given back"
            ),
            (true, false) => tracing::info!("the broker answers again"),
            _ => {}
        }
        self.was_deaf = is_deaf;
        is_deaf
    }

    /// Asks for the description of a stream. Only a leader's counts: a server that was cut off from
    /// the others describes what it has itself.
    pub(super) async fn ask(&mut self, jetstream: &jetstream::Context, limit: Duration) {
        let Some(partition) = self.layout.partition(self.turn) else { return };
        self.turn = (self.turn + 1) % self.layout.partitions();
        let answered = timeout(limit, stream::find(jetstream, partition)).await;
        if let Ok(Ok(info)) = answered
            && info.is_none_or(|info| stream::has_leader(&info))
        {
            self.heard = Instant::now();
        }
    }
}
