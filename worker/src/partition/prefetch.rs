//! Messages that were read from a partition's stream and are not applied yet.

use std::collections::VecDeque;
use std::time::SystemTime;

use async_nats::jetstream;
use chrono::{DateTime, Utc};

use crate::rules::event::Incoming;

/// How many bytes of the stream are decoded while a batch is being committed.
const MAX_BYTES: usize = 1024 * 1024;

/// A message that was read.
#[derive(Debug)]
pub struct Received {
    /// The stream sequence.
    pub seq: i64,
    /// Its `Nats-Msg-Id`.
    pub msg_id: Option<String>,
    /// When the stream stored it, in microseconds.
    pub stored_at: DateTime<Utc>,
    /// When it was read, for its span only; none if spans are not exported.
    pub(crate) read_at: Option<SystemTime>,
    pub(crate) message: jetstream::Message,
}

/// Messages that follow each other, decoded.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages, at least one.
    pub messages: Vec<Received>,
    /// Their entries, in order.
    pub incoming: Vec<Incoming>,
    /// Where each message's entries end.
    ends: Vec<usize>,
}

impl Batch {
    /// Each message with its entries.
    pub fn each(&self) -> impl Iterator<Item = (&Received, &[Incoming])> {
        let mut begin = 0;
        self.messages.iter().zip(&self.ends).map(move |(message, end)| {
            let entries = &self.incoming[begin..*end];
            begin = *end;
            (message, entries)
        })
    }
}

/// Messages in order, each with its entries.
#[derive(Debug, Default)]
pub(crate) struct Prefetch {
    messages: VecDeque<(Received, Vec<Incoming>)>,
    callbacks: usize,
    bytes: usize,
}

impl Prefetch {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn callbacks(&self) -> usize {
        self.callbacks
    }

    /// Whether it holds as much as should be held beside the batch that is being committed.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    pub(crate) fn push(&mut self, (message, incoming): (Received, Vec<Incoming>)) {
        self.callbacks += incoming.len();
        self.bytes += message.message.payload.len();
        self.messages.push_back((message, incoming));
    }

    /// Takes whole messages up to `max` callbacks. A larger message is taken alone.
    pub(crate) fn take(&mut self, max: usize) -> Batch {
        let mut batch = Batch::default();
        while let Some((_, next)) = self.messages.front()
            && (batch.messages.is_empty() || batch.incoming.len() + next.len() <= max)
            && let Some((message, mut incoming)) = self.messages.pop_front()
        {
            self.callbacks -= incoming.len();
            self.bytes -= message.message.payload.len();
            batch.incoming.append(&mut incoming);
            batch.ends.push(batch.incoming.len());
            batch.messages.push(message);
        }
        batch
    }
}
