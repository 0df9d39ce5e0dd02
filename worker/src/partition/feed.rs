//! Reads a partition's stream in order, through a consumer of its own. The only place that acks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::{Client, Statistics};
use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use shared::partition::Partition;
use shared::trace::Traces;
use tokio::time::Instant;

use super::delivered::to_message;
use super::look_ahead::look_ahead;
use super::prefetch::{Batch, Prefetch, Received};
use crate::entity::partition::Model as Row;
use crate::rules::event::{Incoming, decode, micros};
use crate::rules::known_refusals::KnownRefusals;
use crate::rules::stop_reason::{Mismatch, StopReason};
use crate::rules::verdict::{self, Checkpoint, Description, Verdict, judge};

/// How long the broker waits before it redelivers an unacked message: in practice for ever. An
/// owner that needs messages again makes a new consumer.
const ACK_WAIT: Duration = Duration::from_secs(3600);
/// After this long without a pull the broker forgets a consumer whose owner died.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(300);
/// A message that is known to be there must come within this time.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// How long a cluster's bad description of a stream is doubted: twice what a leader takes to notice
/// that it is isolated.
const DOUBT: Duration = Duration::from_secs(20);
/// The most that a pull may bring, which bounds this process's memory per partition. Without load a
/// message holds one callback, so that this many messages may be needed to fill a batch.
const PULL_MESSAGES: usize = 500;
const PULL_BYTES: usize = 1024 * 1024;
/// How many delivered messages are remembered: more than the pulls that overlap can bring.
const REMEMBERED: usize = 2 * PULL_MESSAGES;

/// Why reading a partition ends.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Continuing would skip or repeat something: a person must look.
    #[error("{0}")]
    Stop(StopReason),
    /// Anything else has one recovery: drop the buffer and acquire the partition again.
    #[error("{0}")]
    Anomaly(String),
}

impl Trouble {
    fn anomaly(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Anomaly(format!("{what}: {error:#}"))
    }
}

/// What is known of a stream while it is read.
#[derive(Debug)]
pub struct Basis {
    /// Its partition.
    pub partition: Partition,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// The refusals that orders later in the stream name.
    pub known_refusals: KnownRefusals,
}

/// The messages of a partition after its checkpoint, in order and without holes.
pub struct Feed {
    partition: Partition,
    stream: Stream,
    consumer: String,
    messages: Messages,
    connection: Connection,
    next_seq: i64,
    remembered: Remembered,
    prefetch: Prefetch,
    traces: Traces,
    /// What went wrong while prefetching: there will be no next batch.
    trouble: Option<Trouble>,
    /// The sequence of a message that came too early. It is kept, because finding the reason may be
    /// cancelled while the broker is asked.
    gap: Option<i64>,
}

/// The connection to the broker that a feed was opened on.
struct Connection {
    statistics: Arc<Statistics>,
    number: u64,
}

impl Connection {
    fn current(client: &Client) -> Self {
        let statistics = client.statistics();
        Self { number: statistics.connects.load(Ordering::Relaxed), statistics }
    }

    /// Behind another connection there may be a stream that lost its tail, with a consumer that
    /// continues as if nothing had happened. The client counts a connection before it hands out its
    /// first message.
    fn check(&self) -> Result<(), Trouble> {
        if self.statistics.connects.load(Ordering::Relaxed) == self.number {
            return Ok(());
        }
        Err(Trouble::Anomaly("the connection to the broker was lost in between".into()))
    }
}

/// When the stream stored each of the last delivered messages. This distinguishes a redelivered
/// message from another one that has taken its sequence.
#[derive(Debug, Default)]
struct Remembered(VecDeque<DateTime<Utc>>);

impl Remembered {
    fn add(&mut self, stored: DateTime<Utc>) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(stored);
    }

    /// Whether the `back`-th last message was stored at this time. False for one that is forgotten.
    fn is(&self, back: i64, stored: DateTime<Utc>) -> bool {
        let index = usize::try_from(back).ok().and_then(|back| self.0.len().checked_sub(back));
        index.and_then(|index| self.0.get(index)) == Some(&stored)
    }
}

/// The name of the consumer of one epoch and process.
fn consumer_name(epoch: i64, owner: &str) -> String {
    format!("worker-{epoch}-{owner}")
}

impl Feed {
    /// Opens the feed for a partition that was just acquired. Checks that the stream is the applied
    /// one, makes a consumer that starts *at* the checkpoint, because the message there proves that
    /// the stream is still the same, and deletes the predecessor's consumer.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn open(
        jetstream: &Context,
        row: &Row,
        owner: &str,
        partition: Partition,
        traces: &Traces,
    ) -> Result<(Self, Basis), Trouble> {
        // Taken before anything is checked, because the checks hold for this connection only.
        let connection = Connection::current(&jetstream.client());
        let checkpoint = Checkpoint::from(row);
        let (stream, description) = describe(jetstream, &checkpoint, partition).await?;
        // Before the consumer is made: the broker forgets one that nobody reads for too long.
        let known_refusals = look_ahead(jetstream, &stream, partition, row.applied_seq)
            .await
            .map_err(|error| Trouble::anomaly("the orders ahead can't be read", error))?;
        let created_at = description.created_at;

        // If an operator let the partition continue, there is no message at the checkpoint.
        let start = row.applied_seq + i64::from(checkpoint.is_accepted);

        let consumer = consumer_name(row.epoch, owner);
        let max_payload = jetstream.client().server_info().max_payload;
        let messages = stream
            .create_consumer(Config {
                name: Some(consumer.clone()),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: u64::try_from(start.max(1)).unwrap_or(1),
                },
                ack_policy: AckPolicy::All,
                ack_wait: ACK_WAIT,
                max_deliver: -1,
                max_ack_pending: -1,
                inactive_threshold: INACTIVE_THRESHOLD,
                num_replicas: 1,
                // Nothing depends on its state, and a disk would delay every take-over.
                memory_storage: true,
                ..Config::default()
            })
            .await
            .map_err(|error| Trouble::anomaly("the consumer can't be made", error))?
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            // A message above this limit would never be delivered, without any error.
            .max_bytes_per_batch(PULL_BYTES.max(max_payload + max_payload / 4))
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|error| Trouble::anomaly("the consumer can't be read", error))?;
        let mut feed = Self {
            partition,
            stream,
            consumer,
            messages,
            connection,
            next_seq: start.max(1),
            remembered: Remembered::default(),
            prefetch: Prefetch::default(),
            traces: traces.clone(),
            trouble: None,
            gap: None,
        };
        if checkpoint.has_message()
            && let Err(trouble) = feed.check_first(&checkpoint, &description).await
        {
            feed.close().await;
            return Err(trouble);
        }
        if let Some(previous) = &row.previous_owner {
            let (stream, name) = (feed.stream.clone(), consumer_name(row.epoch - 1, previous));
            // Nothing waits for that: it is gone if its owner ended in order, and the broker
            // forgets it by itself if its owner crashed.
            tokio::spawn(async move {
                let _ = stream.delete_consumer(&name).await;
            });
        }
        Ok((feed, Basis { partition, created_at, known_refusals }))
    }

    /// Checks that the first message is the one that was applied last.
    async fn check_first(
        &mut self,
        checkpoint: &Checkpoint<'_>,
        description: &Description,
    ) -> Result<(), Trouble> {
        let (first, _) =
            tokio::time::timeout(FIRST_MESSAGE_LIMIT, self.receive()).await.map_err(|_| {
                Trouble::Anomaly("the message at the checkpoint does not come".into())
            })??;
        let message = verdict::Message::Id(first.msg_id.as_deref());
        believe(judge(checkpoint, description, message))
    }

    /// Waits for a message and fetches what has arrived, up to `max` callbacks or a little more.
    /// Cancel-safe. Returns how many callbacks wait to be applied.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn arrival(&mut self, max: usize) -> Result<usize, Trouble> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        while self.prefetch.callbacks() < max {
            let received = match self.receive().now_or_never() {
                Some(received) => received,
                None if self.prefetch.is_empty() => self.receive().await,
                None => break,
            };
            self.prefetch.push(received?);
        }
        Ok(self.prefetch.callbacks())
    }

    /// Takes what was fetched, whole messages up to `max` callbacks. A larger message comes alone.
    pub fn take(&mut self, max: usize) -> Batch {
        self.prefetch.take(max)
    }

    /// Fetches and decodes what comes next while a batch is being committed, up to `max` callbacks;
    /// never returns. Cancel-safe.
    pub async fn prefetch(&mut self, max: usize) -> Infallible {
        self.fill(max).await;
        std::future::pending().await
    }

    /// Fetches and decodes what comes next until so many callbacks wait, or as much as may wait, or
    /// until something goes wrong, which the next arrival tells. Cancel-safe.
    pub async fn fill(&mut self, max: usize) {
        while self.prefetch.callbacks() < max && !self.prefetch.is_full() {
            match self.receive().await {
                Ok(received) => self.prefetch.push(received),
                Err(trouble) => {
                    self.trouble = Some(trouble);
                    break;
                }
            }
        }
    }

    /// The next message in order. Cancel-safe: nothing is lost when it is dropped while it waits.
    async fn receive(&mut self) -> Result<(Received, Vec<Incoming>), Trouble> {
        loop {
            if let Some(found) = self.gap {
                return Err(self.explain_gap(found).await);
            }
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(Trouble::anomaly("the consumer failed", error)),
                None => return Err(Trouble::Anomaly("the consumer ended".into())),
            };
            self.connection.check()?;
            let decoded = to_message(&message)
                .map_err(|error| Trouble::anomaly("a message without its position", error))?;
            let seq = decoded.seq;
            if seq < self.next_seq {
                if self.remembered.is(self.next_seq - seq, decoded.at) {
                    // Redelivered: it is applied, or already waits in this process.
                    continue;
                }
                return Err(Trouble::Anomaly(format!(
                    "a message {seq} came that may not be the one that was read"
                )));
            }
            if seq > self.next_seq {
                self.gap = Some(seq);
                continue;
            }
            self.next_seq += 1;
            self.remembered.add(decoded.at);
            let incoming = decode(&decoded, self.partition);
            let (stored_at, read_at) = (micros(decoded.at), self.traces.now());
            let received = Received { seq, msg_id: decoded.msg_id, stored_at, read_at, message };
            return Ok((received, incoming));
        }
    }

    /// A jump in the sequence is a transient fault of the broker if the message still exists, and a
    /// loss if it does not.
    async fn explain_gap(&self, found: i64) -> Trouble {
        let missing = self.next_seq;
        let seq = u64::try_from(missing).unwrap_or(0);
        match self.stream.get_raw_message(seq).await {
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
                Trouble::Stop(StopReason::Stream(Mismatch::MessageGone { seq }))
            }
            _ => Trouble::Anomaly(format!("message {found} came before message {missing}")),
        }
    }

    /// Checks that the connection is still the one that the feed was opened on.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn check_connection(&self) -> Result<(), Trouble> {
        self.connection.check()
    }

    /// Tells the broker how far the partition is applied. Only people who look at the broker need
    /// it: losing it is harmless. It is never sent before the commit.
    pub async fn ack(&self, last: &Received) {
        if let Err(error) = last.message.ack().await {
            tracing::debug!(partition = %self.partition, seq = last.seq, %error, "ack not sent");
        }
    }

    /// Deletes the consumer.
    pub async fn close(self) {
        let Self { stream, consumer, messages, .. } = self;
        drop(messages);
        // If this fails, the broker forgets it by itself.
        let _ = stream.delete_consumer(&consumer).await;
    }
}

/// The partition's stream, if its description agrees with what was applied.
///
/// A node of a cluster that was frozen still takes itself for the leader when it resumes. It first
/// receives what the others sent before they left, and describes the stream as it was then. A bad
/// description is believed only if it lasts longer than that can.
async fn describe(
    jetstream: &Context,
    checkpoint: &Checkpoint<'_>,
    partition: Partition,
) -> Result<(Stream, Description), Trouble> {
    let doubtful_until = Instant::now() + DOUBT;
    loop {
        let stream = jetstream
            .get_stream(partition.stream())
            .await
            .map_err(|error| Trouble::anomaly("the stream is not described", error))?;
        let description = Description::from(stream.cached_info());
        let verdict = judge(checkpoint, &description, verdict::Message::NotRead);
        if let Verdict::Differs(mismatch) = verdict
            && mismatch.may_pass(description.replicas)
            && Instant::now() < doubtful_until
        {
            tokio::time::sleep(DOUBT / 20).await;
            continue;
        }
        return believe(verdict).map(|()| (stream, description));
    }
}

/// What a verdict means for the reader of the stream.
fn believe(verdict: Verdict) -> Result<(), Trouble> {
    match verdict {
        Verdict::Believed => Ok(()),
        Verdict::NoLeader => {
            Err(Trouble::Anomaly("the stream has no leader that hears a majority".into()))
        }
        Verdict::Differs(mismatch) => Err(Trouble::Stop(StopReason::Stream(mismatch))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_delivered_again_is_told_from_another_in_its_place() {
        let at = |ns| DateTime::from_timestamp_nanos(1_800_000_000_000_000_000 + ns);
        let mut remembered = Remembered::default();
        assert!(!remembered.is(1, at(0)), "nothing was let through yet");
        (0..5000).for_each(|ns| remembered.add(at(ns)));
        assert!(remembered.is(1, at(4999)));
        assert!(!remembered.is(1, at(5000)), "another message");
        assert!(!remembered.is(2, at(4999)), "another place");
        let oldest = REMEMBERED as i64;
        assert!(remembered.is(oldest, at(5000 - oldest)));
        assert!(!remembered.is(oldest + 1, at(4999 - oldest)), "forgotten");
    }
}
