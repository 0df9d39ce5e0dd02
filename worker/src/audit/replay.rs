//! Reads a part of a partition's stream once, in order, without owning the partition. For reading
//! only, never for applying.

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::Stream as Messages;
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use crate::partition::delivered::{self, to_message};
use crate::rules::event::Message;

/// A message that is known to be there must come within this time.
const MESSAGE_LIMIT: Duration = Duration::from_secs(30);
/// The pause before the broker is asked again.
const RETRY: Duration = Duration::from_millis(250);

/// What comes next in a stream.
#[derive(Debug)]
pub(super) enum Next {
    /// A message.
    Message(Message),
    /// Missing messages, by their sequences.
    Missing {
        /// The first one.
        from: i64,
        /// The last one.
        to: i64,
    },
}

/// The messages of a stream from one sequence to another, both included.
pub(super) struct Range {
    stream: Stream,
    /// The consumer's name and its messages, while it exists.
    reading: Option<(String, Messages)>,
    next: i64,
    to: i64,
    carried: Option<Message>,
}

impl Range {
    /// The messages from one sequence to another, of which the last must exist.
    #[must_use]
    pub(super) fn new(stream: Stream, from: i64, to: i64) -> Self {
        Self { stream, reading: None, next: from, to, carried: None }
    }

    /// What comes next; none at the end.
    ///
    /// # Errors
    /// The broker failed for longer than an election takes.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Next>> {
        if self.next > self.to {
            return Ok(None);
        }
        let message = match self.carried.take() {
            Some(message) => message,
            None => self.deliver().await?,
        };
        ensure!(message.seq >= self.next, "the message {} came again", message.seq);
        if message.seq > self.next {
            let missing = Next::Missing { from: self.next, to: self.to.min(message.seq - 1) };
            self.next = message.seq;
            self.carried = Some(message);
            return Ok(Some(missing));
        }
        self.next += 1;
        Ok(Some(Next::Message(message)))
    }

    /// The next existing message. In a cluster the consumer is lost with its node, and for a moment
    /// the stream has no leader; a new consumer then continues from here.
    async fn deliver(&mut self) -> anyhow::Result<Message> {
        let give_up = Instant::now() + MESSAGE_LIMIT;
        loop {
            let received = tokio::time::timeout_at(give_up, self.receive()).await;
            match received.unwrap_or_else(|_| Err(anyhow!("the broker does not deliver"))) {
                Ok(message) => return to_message(&message),
                Err(error) if Instant::now() >= give_up => return Err(error),
                Err(_) => {
                    self.reading = None;
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn receive(&mut self) -> anyhow::Result<jetstream::Message> {
        let (_, messages) = match &mut self.reading {
            Some(reading) => reading,
            None => self.reading.insert(delivered::read(&self.stream, None, self.next).await?),
        };
        let delivered = messages.next().await.context("the broker ended the delivery")?;
        delivered.context("the broker does not deliver")
    }

    /// Deletes the consumer.
    pub(super) async fn close(self) {
        let Some((consumer, messages)) = self.reading else { return };
        drop(messages);
        // If this fails, the broker forgets it by itself.
        let _ = self.stream.delete_consumer(&consumer).await;
    }
}
