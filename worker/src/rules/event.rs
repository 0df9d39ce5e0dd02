//! Decodes messages of the stream into events. Pure: every time comes from the message.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use shared::bundle::{self, MAX_SPEAKER_BYTES, Metadata, Run};
use shared::callback::{self, Callback, MAX_EVENT_ID_BYTES, MAX_JOB_ID_BYTES, MAX_NAME_BYTES};
use shared::partition::Partition;
use shared::trace::TraceContext;

use crate::entity::job_event::Kind;
use crate::entity::{dead_letter, job_event};

/// The position of a callback in its partition's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The stream sequence, from 1.
    pub seq: i64,
    /// The index in the bundle, from 0.
    pub idx: i32,
}

impl From<&dead_letter::Model> for Position {
    fn from(letter: &dead_letter::Model) -> Self {
        Self { seq: letter.seq, idx: letter.idx }
    }
}

impl From<&job_event::Model> for Position {
    fn from(event: &job_event::Model) -> Self {
        Self { seq: event.seq, idx: event.idx }
    }
}

/// The content of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A callback of a sender.
    Callback(Callback),
    /// The owner of the partition has heard nothing of the job since `witness`.
    Lost {
        /// The job.
        job_id: String,
        /// The position of its last sign of life.
        witness: Position,
    },
}

/// An event of a job, ready to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands.
    pub position: Position,
    /// When the stream stored it, in microseconds.
    pub at: DateTime<Utc>,
    /// What it says.
    pub body: Body,
}

impl Event {
    /// The job that it concerns.
    #[must_use]
    pub fn job_id(&self) -> &str {
        match &self.body {
            Body::Callback(callback) => &callback.job_id,
            Body::Lost { job_id, .. } => job_id,
        }
    }
}

/// One entry of a message: it is applied, or becomes a dead letter. It keeps its payload, because
/// what cannot be applied is stored verbatim.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The number of the partition whose stream it stands in. A dead letter's is that of its
    /// generation, which need not be the job's now.
    pub partition: i32,
    /// Where it stands.
    pub position: Position,
    /// When the stream stored it, in microseconds.
    pub at: DateTime<Utc>,
    /// The subject that it came on.
    pub subject: Arc<str>,
    /// Who speaks; none where no metadata could be read.
    pub speaker: Option<Arc<str>>,
    /// The run that ingress knows for certain.
    pub run: Option<Run>,
    /// The verbatim body.
    pub payload: Bytes,
    /// How often the database rejected it before.
    pub refusals: i32,
    /// The position of the order by which it is tried again.
    pub redriven: Option<Position>,
    /// The trace that it continues. It decides nothing.
    pub trace: Option<TraceContext>,
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An event of a job.
    Event(Event),
    /// An operator's order about a dead letter.
    Order(Order),
    /// It cannot be decoded; why.
    Undecodable(String),
}

/// An operator's order about a dead letter. It comes through the stream, so that it is applied in
/// order, and again in a replay. It holds everything that a replay needs to know about the refusal,
/// because the other database may accept the callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub action: Action,
    /// The number of the partition in which the dead letter stands.
    pub partition: i32,
    /// The dead letter, by its position there.
    pub target: Position,
    /// The number of the refusal, from 1: a second order about the same refusal does nothing.
    pub refusal: i32,
    /// Why it was refused.
    pub reason: String,
}

/// The possible decisions about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Try it again, and then what is held behind it.
    Requeue,
    /// Discard it, and apply what is held behind it.
    Discard,
}

impl Action {
    /// Its kind in `job_events`.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Requeue => Kind::Requeue,
            Self::Discard => Kind::Discard,
        }
    }
}

/// The body that reports a silence, for the partition's internal subject.
#[must_use]
pub fn lost_body(job_id: &str, witness: Position) -> String {
    let Position { seq, idx } = witness;
    serde_json::json!({ "type": "lost", "job_id": job_id, "witness": [seq, idx] }).to_string()
}

impl Incoming {
    /// The event, if this entry is one.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match &self.content {
            Content::Event(event) => Some(event),
            Content::Order(_) | Content::Undecodable(_) => None,
        }
    }
}

impl Order {
    /// The body of the order, for the partition's subject of orders.
    #[must_use]
    pub fn to_body(&self) -> String {
        let Self { action, partition, target: Position { seq, idx }, refusal, reason } = self;
        serde_json::json!({
            "type": action, "position": [partition, seq, idx], "refusal": refusal, "reason": reason,
        })
        .to_string()
    }
}

/// A message as the broker delivers it.
#[derive(Debug, Clone)]
pub struct Message {
    /// The stream sequence, from 1.
    pub seq: i64,
    /// Its `Nats-Msg-Id`.
    pub msg_id: Option<String>,
    /// The value of its `Ackline-Bundle` header.
    pub version: Option<String>,
    /// Whether it is the mark of the stream's end.
    pub is_end: bool,
    /// The subject that it came on.
    pub subject: Arc<str>,
    /// When the stream stored it.
    pub at: DateTime<Utc>,
    /// The payload.
    pub payload: Bytes,
}

/// Reasons are truncated to this many bytes.
pub const MAX_REASON_BYTES: usize = 1000;
/// Message ids are truncated to this many bytes; ours have 32.
const MAX_MSG_ID_BYTES: usize = 200;

/// A text from the broker in a form that databases accept.
#[must_use]
pub fn without_nul(text: &str, max_bytes: usize) -> String {
    let text = text.replace('\0', "");
    text[..text.floor_char_boundary(max_bytes)].to_owned()
}

/// A message id as the checkpoint keeps it.
#[must_use]
pub fn kept_msg_id(id: &str) -> String {
    without_nul(id, MAX_MSG_ID_BYTES)
}

/// A time as the databases keep it, in microseconds.
#[must_use]
pub fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// Decodes a message into its entries, in order. The mark of the end has none. Another message
/// that is no bundle is one undecodable entry with index 0.
#[must_use]
pub fn decode(message: &Message, partition: Partition) -> Vec<Incoming> {
    if message.is_end {
        return Vec::new();
    }
    let at = micros(message.at);
    let incoming = |idx: usize, payload: Bytes, said: Result<Said, String>| {
        // Bundles hold at most 256 callbacks.
        let position = Position { seq: message.seq, idx: idx as i32 };
        Incoming {
            partition: i32::from(partition.number()),
            position,
            at,
            subject: Arc::clone(&message.subject),
            speaker: None,
            run: None,
            payload,
            refusals: 0,
            redriven: None,
            trace: None,
            content: content(said, position, at),
        }
    };
    let channel = Channel::of(&message.subject);
    let bundle = if message.version.as_deref() == Some(bundle::VERSION_HEADER.1) {
        bundle::decode(&message.payload).map_err(|error| error.to_string())
    } else {
        Err(format!(
            "the message has no header {}: {}",
            bundle::VERSION_HEADER.0,
            bundle::VERSION_HEADER.1
        ))
    };
    let entries = match bundle {
        Ok(entries) => entries,
        Err(error) => return vec![incoming(0, message.payload.clone(), Err(error))],
    };
    entries
        .into_iter()
        .enumerate()
        .map(|(idx, entry)| {
            let Metadata { speaker, traceparent, event_id, kind, run, .. } = entry.metadata;
            let known = Known { kind, event_id: event_id.as_deref(), run: run.as_ref() };
            let said = said(&entry.body, &known, channel, partition);
            // PostgreSQL's texts hold no NUL.
            let speaker = Some(without_nul(&speaker, MAX_SPEAKER_BYTES).into());
            Incoming { speaker, run, trace: traceparent, ..incoming(idx, entry.body, said) }
        })
        .collect()
}

/// What the metadata say of a body.
struct Known<'a> {
    kind: bundle::Kind,
    event_id: Option<&'a str>,
    run: Option<&'a Run>,
}

/// Decodes a dead letter again, at its own position and time, by an order at `redriven`. It may stand
/// in another generation than the partition that its job belongs to now.
#[must_use]
pub fn decode_again(
    letter: dead_letter::Model,
    partition: Partition,
    redriven: Position,
) -> Incoming {
    let position = Position::from(&letter);
    let channel = Channel::of(&letter.subject);
    let run = letter.run.as_deref().and_then(|run| serde_json::from_str(run).ok());
    let known = Known {
        kind: bundle::Kind::Callback,
        event_id: letter.event_id.as_deref(),
        run: run.as_ref(),
    };
    let said = said(&letter.payload, &known, channel, partition);
    Incoming {
        partition: letter.partition,
        position,
        at: letter.received_at,
        content: content(said, position, letter.received_at),
        subject: letter.subject.into(),
        speaker: letter.speaker.map(Into::into),
        run,
        payload: letter.payload.into(),
        refusals: letter.refusals,
        redriven: Some(redriven),
        // The trace ended with the refusal.
        trace: None,
    }
}

/// Which of a stream's subjects a message came on: this decides what it may say.
#[derive(Debug, Clone, Copy)]
enum Channel {
    Callbacks,
    Internal,
    Orders,
}

impl Channel {
    /// A stream takes only its own subjects, so that their first token decides.
    fn of(subject: &str) -> Self {
        match subject.split('.').next() {
            Some("internal") => Self::Internal,
            Some("orders") => Self::Orders,
            _ => Self::Callbacks,
        }
    }
}

enum Said {
    Body(Body),
    Order(Order),
}

fn content(said: Result<Said, String>, position: Position, at: DateTime<Utc>) -> Content {
    match said {
        Ok(Said::Body(body)) => Content::Event(Event { position, at, body }),
        Ok(Said::Order(order)) => Content::Order(order),
        // The reason may quote the callback, so it stays in the database.
        Err(reason) => Content::Undecodable(without_nul(&reason, MAX_REASON_BYTES)),
    }
}

fn said(
    body: &[u8],
    known: &Known<'_>,
    channel: Channel,
    partition: Partition,
) -> Result<Said, String> {
    let body = match channel {
        Channel::Callbacks => external(body, known)?,
        Channel::Internal => internal(body)?,
        Channel::Orders => return order(body).map(Said::Order),
    };
    in_partition(body, partition).map(Said::Body)
}

fn external(body: &[u8], known: &Known<'_>) -> Result<Body, String> {
    match known.kind {
        bundle::Kind::Callback => {}
        bundle::Kind::Github => return Err("a newer version of the worker is needed".into()),
    }
    let mut callback = callback::parse(body).map_err(|error| error.to_string())?;
    if let (None, Some(event_id)) = (&callback.event_id, known.event_id) {
        if !(1..=MAX_EVENT_ID_BYTES).contains(&event_id.len()) || event_id.contains('\0') {
            return Err("Invalid event_id in the metadata".into());
        }
        callback.event_id = Some(event_id.to_owned());
    }
    if let Some(Run { id, attempt, .. }) = known.run {
        callback.workflow_run_id = Some(without_nul(id, MAX_NAME_BYTES));
        callback.run_attempt = Some(*attempt);
    }
    Ok(Body::Callback(callback))
}

fn internal(body: &[u8]) -> Result<Body, String> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "lowercase")]
    enum Internal {
        Lost { job_id: String, witness: (i64, i32) },
    }
    match serde_json::from_slice(body) {
        Ok(Internal::Lost { job_id, .. })
            if !(1..=MAX_JOB_ID_BYTES).contains(&job_id.len())
                || job_id.contains(char::is_control) =>
        {
            Err("Invalid job_id".into())
        }
        Ok(Internal::Lost { job_id, witness: (seq, idx) }) => {
            Ok(Body::Lost { job_id, witness: Position { seq, idx } })
        }
        Err(error) => Err(format!("not an internal event: {error}")),
    }
}

fn order(body: &[u8]) -> Result<Order, String> {
    #[derive(Deserialize)]
    struct Sent {
        r#type: Action,
        position: (i32, i64, i32),
        refusal: i32,
        reason: String,
    }
    let Sent { r#type: action, position: (partition, seq, idx), refusal, reason } =
        serde_json::from_slice(body).map_err(|error| format!("not an order: {error}"))?;
    let reason = without_nul(&reason, MAX_REASON_BYTES);
    Ok(Order { action, partition, target: Position { seq, idx }, refusal, reason })
}

/// A job in the wrong partition would have two writers.
fn in_partition(body: Body, partition: Partition) -> Result<Body, String> {
    let job_id = match &body {
        Body::Callback(callback) => &callback.job_id,
        Body::Lost { job_id, .. } => job_id,
    };
    let home = partition.layout().of_job(job_id);
    if home == partition {
        Ok(body)
    } else {
        Err(format!("the job belongs to partition {home}, not to {partition}"))
    }
}
