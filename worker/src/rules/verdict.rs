//! The verdict on a stream: may its description be believed, and is it the stream that was applied?
//! The reader, the janitor, `ackline audit`, `ackline prune` and `ackline partitions accept` ask
//! here before they act on what a stream says. Pure: the row and the description are handed in.

use async_nats::jetstream::stream::Info;
use chrono::{DateTime, Utc};
use shared::stream::has_leader;

use super::event::micros;
use super::stop_reason::Mismatch;
use crate::entity::partition::Model as Row;

/// What a checkpoint row says about the stream that was applied.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The sequence of the last message that is applied; 0 for none.
    pub applied_seq: u64,
    /// The `Nats-Msg-Id` of that message.
    pub applied_msg_id: Option<&'a str>,
    /// When the stream was created, in microseconds; none before the first message is applied.
    pub stream_created_at: Option<DateTime<Utc>>,
    /// Whether an operator set the checkpoint past messages that are gone, and nothing was applied
    /// since: there is no message at the checkpoint.
    pub is_accepted: bool,
}

impl<'a> From<&'a Row> for Checkpoint<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            applied_seq: u64::try_from(row.applied_seq).unwrap_or(0),
            applied_msg_id: row.applied_msg_id.as_deref(),
            stream_created_at: row.stream_created_at,
            is_accepted: row.accepted_seq == Some(row.applied_seq),
        }
    }
}

impl Checkpoint<'_> {
    /// Whether the stream must hold a message at the checkpoint.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.applied_seq > 0 && !self.is_accepted
    }
}

/// How the broker describes a stream.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// When it was created, in microseconds.
    pub created_at: DateTime<Utc>,
    /// The first sequence that it holds. An empty stream says 0, or the one after its last.
    pub first_seq: u64,
    /// The last sequence.
    pub last_seq: u64,
    /// Whether its only leader describes it: [`has_leader`].
    pub has_leader: bool,
    /// How many copies of it there are.
    pub replicas: usize,
}

impl From<&Info> for Description {
    fn from(info: &Info) -> Self {
        Self {
            created_at: micros(info.created),
            first_seq: info.state.first_sequence,
            last_seq: info.state.last_sequence,
            has_leader: has_leader(info),
            replicas: info.config.num_replicas,
        }
    }
}

/// What is known about the message at the checkpoint.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// It was not read: the verdict goes by the description alone.
    NotRead,
    /// The stream does not hold it.
    Gone,
    /// It has this `Nats-Msg-Id`, as the checkpoint keeps it.
    Id(Option<&'a str>),
}

/// The verdict on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the applied stream, as far as it was examined.
    Believed,
    /// No leader describes it, so the description may be out of date. Ask again.
    NoLeader,
    /// It does not agree with what was applied.
    Differs(Mismatch),
}

/// Judges a stream by the checkpoint, the description, and the message at the checkpoint.
#[must_use]
pub fn judge(checkpoint: &Checkpoint<'_>, stream: &Description, message: Message<'_>) -> Verdict {
    let Checkpoint { applied_seq, applied_msg_id, is_accepted, .. } = *checkpoint;
    let Description { created_at, first_seq, last_seq, .. } = *stream;
    if !stream.has_leader {
        return Verdict::NoLeader;
    }
    if checkpoint.stream_created_at.is_some_and(|known| known != created_at) {
        return Verdict::Differs(Mismatch::Recreated { created_at });
    }
    if last_seq < applied_seq {
        return Verdict::Differs(Mismatch::LostTail { last_seq, applied_seq });
    }
    if first_seq > applied_seq.max(1) + u64::from(is_accepted) {
        return Verdict::Differs(Mismatch::Purged { first_seq, applied_seq });
    }
    if !checkpoint.has_message() {
        return Verdict::Believed;
    }
    match message {
        Message::NotRead => Verdict::Believed,
        Message::Gone => Verdict::Differs(Mismatch::MessageGone { seq: applied_seq }),
        Message::Id(id) if id == applied_msg_id => Verdict::Believed,
        Message::Id(_) => Verdict::Differs(Mismatch::OtherMessage { seq: applied_seq }),
    }
}
