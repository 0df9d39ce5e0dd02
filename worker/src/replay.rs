//! Reads a part of a partition's stream once, in order, without owning the partition: for looking,
//! never for applying.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;

use crate::consumer::to_message;
use crate::event::Message;

/// A message that is known to be there must come within this time.
const MESSAGE_LIMIT: Duration = Duration::from_secs(30);
/// The broker forgets the consumer of a reader that ended without a word.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(60);
const PULL_MESSAGES: usize = 2000;
const PULL_BYTES: usize = 8 * 1024 * 1024;

/// What comes next in a stream.
#[derive(Debug)]
pub enum Next {
    /// A message.
    Message(Message),
    /// Messages that are not there, by their sequences.
    Missing {
        /// The first one.
        from: i64,
        /// The last one.
        to: i64,
    },
}

/// The messages of a stream from one sequence to another, both included.
pub struct Range {
    stream: Stream,
    consumer: String,
    messages: Messages,
    next: i64,
    to: i64,
    carried: Option<Message>,
}

impl Range {
    /// Begins to read. The stream must hold a message at `to`.
    ///
    /// # Errors
    /// When the broker fails.
    pub async fn open(stream: Stream, from: i64, to: i64) -> anyhow::Result<Self> {
        let consumer = format!("reader-{}", uuid::Uuid::new_v4().simple());
        let messages = stream
            .create_consumer(Config {
                name: Some(consumer.clone()),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: u64::try_from(from)?,
                },
                ack_policy: AckPolicy::None,
                inactive_threshold: INACTIVE_THRESHOLD,
                memory_storage: true,
                num_replicas: 1,
                ..Config::default()
            })
            .await
            .context("the stream can't be read")?
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .context("the stream can't be read")?;
        Ok(Self { stream, consumer, messages, next: from, to, carried: None })
    }

    /// What comes next; none at the end.
    ///
    /// # Errors
    /// When the broker fails.
    pub async fn next(&mut self) -> anyhow::Result<Option<Next>> {
        if self.next > self.to {
            return Ok(None);
        }
        let message = match self.carried.take() {
            Some(message) => message,
            None => {
                let message = tokio::time::timeout(MESSAGE_LIMIT, self.messages.next())
                    .await
                    .context("the broker does not deliver")?
                    .context("the broker ended the delivery")?
                    .context("the broker does not deliver")?;
                to_message(&message)?.0
            }
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

    /// Ends the reading.
    pub async fn close(self) {
        let Self { stream, consumer, messages, .. } = self;
        drop(messages);
        // The broker forgets it by itself when this fails.
        let _ = stream.delete_consumer(&consumer).await;
    }
}
