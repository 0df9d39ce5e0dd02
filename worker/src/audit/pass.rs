//! One pass over a partition: its stream up to the checkpoint, beside the database's rows.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context as _, bail};
use async_nats::jetstream::{self, stream::Stream};
use shared::partition::{Layout, Partition};
use shared::stream::ContractError;

use super::differ::{Differences, Entry};
use super::fold::{Counts, Fold};
use super::ledger::Ledger;
use super::progress::Progress;
use super::replay::{Next, Range};
use crate::entity::job::Model as Job;
use crate::entity::job_event::Effect;
use crate::entity::partition::Model as Row;
use crate::entity::partition_gap::Model as Gap;
use crate::partition::identify::identify;
use crate::partition::look_ahead::look_ahead;
use crate::rules::event::{Content, Incoming, Message, Position, decode};
use crate::rules::stop_reason::Mismatch;
use crate::rules::verdict::{Checkpoint, Verdict};
use crate::store::audit::Snapshot;

/// The size is checked after every so many messages.
const SIZE_CHECK: u64 = 100;
/// The most slices of jobs that a partition is divided into.
const MAX_SLICES: u64 = 1 << 12;

/// What an audit reads.
pub(super) struct Context<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) jetstream: &'a jetstream::Context,
    pub(super) gaps: &'a [Gap],
    pub(super) layout: Layout,
    pub(super) max_entries: usize,
    pub(super) progress: &'a Progress,
}

/// A partition's stream.
pub(super) struct Source {
    stream: Stream,
    pub(super) partition: Partition,
    /// The first sequence that it holds.
    pub(super) first_seq: i64,
    applied_seq: i64,
}

impl Source {
    pub(super) async fn find(context: &Context<'_>, row: &Row) -> anyhow::Result<Self> {
        let partition = context.layout.partition(row.partition).context("no such partition")?;
        let name = partition.stream();
        let stream = context
            .jetstream
            .get_stream(&name)
            .await
            .with_context(|| format!("the stream {name} is not described"))?;
        let first_seq = i64::try_from(stream.cached_info().state.first_sequence)?.max(1);
        Ok(Self { stream, partition, first_seq, applied_seq: row.applied_seq })
    }

    /// Checks that the stream is the applied one. Purged messages cannot be folded, but the rest
    /// can.
    pub(super) async fn identify(&self, context: &Context<'_>, row: &Row) -> anyhow::Result<()> {
        let (info, checkpoint) = (self.stream.cached_info(), Checkpoint::from(row));
        match identify(context.jetstream, self.partition, info, &checkpoint).await? {
            Verdict::Believed | Verdict::Differs(Mismatch::Purged { .. }) => Ok(()),
            Verdict::NoLeader => Err(ContractError::NoLeader(self.partition.stream()).into()),
            Verdict::Differs(
                mismatch @ (Mismatch::Recreated { .. }
                | Mismatch::LostTail { .. }
                | Mismatch::MessageGone { .. }
                | Mismatch::OtherMessage { .. }),
            ) => bail!("partition {}: {mismatch}", self.partition),
        }
    }

    /// How many messages there are to read.
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.applied_seq - self.first_seq + 1).unwrap_or(0)
    }

    fn number(&self) -> i32 {
        i32::from(self.partition.number())
    }
}

/// Why a pass over a partition has to be repeated.
pub(super) enum Again {
    /// The janitor has purged messages that were about to be read.
    Purged,
    /// The jobs do not fit into memory.
    Slices,
}

/// The result of one pass over a partition.
pub(super) struct Pass {
    pub(super) jobs: HashMap<String, Job>,
    pub(super) counts: Counts,
    pub(super) differences: Differences,
    pub(super) messages: u64,
    pub(super) skipped: u64,
    /// Orders that were carried out on dead letters of this part of the stream, in all slices.
    pub(super) orders: u64,
}

/// Which jobs a pass folds.
pub(super) enum Slice<'a> {
    /// One slice of them.
    Part { slice: u64, slices: u64 },
    /// Only one job.
    Job(&'a str),
}

impl Slice<'_> {
    /// Whether this slice counts what belongs to no job.
    fn is_first(&self) -> bool {
        matches!(self, Self::Part { slice: 0, .. })
    }

    /// A slice of a few jobs is not divided further: a single job must be that large.
    fn can_be_cut(&self) -> bool {
        matches!(self, Self::Part { slices, .. } if *slices < MAX_SLICES)
    }

    fn has(&self, incoming: &Incoming) -> bool {
        match (self, incoming.event()) {
            (Self::Part { slices: 1, .. }, _) => true,
            // An order is for every slice, because the job of its dead letter is not known.
            (_, None) => self.is_first() || matches!(incoming.content, Content::Order(_)),
            (Self::Job(id), Some(event)) => *id == event.job_id(),
            (Self::Part { slice, slices }, Some(event)) => {
                let mut hasher = DefaultHasher::new();
                event.job_id().hash(&mut hasher);
                hasher.finish() % slices == *slice
            }
        }
    }
}

/// Reads a partition's stream up to the checkpoint, beside the database's rows.
pub(super) async fn pass(
    context: &Context<'_>,
    source: &Source,
    slice: &Slice<'_>,
    differences: Differences,
) -> anyhow::Result<Result<Pass, Again>> {
    let Context { snapshot, gaps, max_entries, .. } = *context;
    let Source { first_seq, applied_seq, .. } = *source;
    let number = source.number();
    let mut decided =
        look_ahead(context.jetstream, &source.stream, source.partition, first_seq - 1).await?;
    for (position, refusal, reason) in snapshot.refusals(number, first_seq).await? {
        decided.insert(number, position, refusal, reason);
    }
    let mut held = HashSet::new();
    // They may have become dead letters in another partition of an earlier generation.
    for job_id in snapshot.held_since_before(first_seq).await?.into_iter().flatten() {
        if context.layout.of_job(&job_id) == source.partition {
            held.insert(job_id);
        }
    }
    let fold = Fold::new(number, first_seq == 1, decided, held, differences.fresh());
    let mut reading = Reading {
        source,
        slice,
        ledger: Ledger::new(snapshot, number, first_seq),
        fold,
        differences,
        messages: 0,
        skipped: 0,
        orders: 0,
    };
    if first_seq <= applied_seq {
        let mut range = Range::new(source.stream.clone(), first_seq, applied_seq);
        while let Some(next) = range.next().await? {
            match next {
                Next::Message(message) => {
                    reading.message(&message).await?;
                    context.progress.done(1);
                }
                Next::Missing { from, to } => {
                    if source.stream.clone().info().await?.state.first_sequence
                        > from.unsigned_abs()
                    {
                        range.close().await;
                        return Ok(Err(Again::Purged));
                    }
                    reading.missing(from, to, gaps);
                    context.progress.done((to - from + 1).unsigned_abs());
                }
            }
            let is_due = reading.messages.is_multiple_of(SIZE_CHECK);
            if is_due && slice.can_be_cut() && reading.fold.size() > max_entries {
                range.close().await;
                return Ok(Err(Again::Slices));
            }
        }
        range.close().await;
    }
    reading.rest().await?;
    let (jobs, counts, mut differences) = reading.fold.finish();
    differences.append(reading.differences);
    let Reading { messages, skipped, orders, .. } = reading;
    Ok(Ok(Pass { jobs, counts, differences, messages, skipped, orders }))
}

/// A pass in progress.
struct Reading<'a> {
    source: &'a Source,
    slice: &'a Slice<'a>,
    ledger: Ledger<'a>,
    fold: Fold,
    differences: Differences,
    messages: u64,
    skipped: u64,
    orders: u64,
}

impl Reading<'_> {
    async fn message(&mut self, message: &Message) -> anyhow::Result<()> {
        self.messages += 1;
        for incoming in decode(message, self.source.partition) {
            let position = incoming.position;
            let mut entry = Entry { incoming, event: None, letter: None };
            while let Some(row) = self.ledger.event(position).await? {
                let at = Position::from(&row);
                if at == position {
                    entry.event = Some(row);
                } else {
                    self.surplus(at, &row.job_id, "job_events");
                }
            }
            while let Some(row) = self.ledger.letter(position).await? {
                let at = Position::from(&row);
                if at == position {
                    entry.letter = Some(row);
                } else {
                    self.surplus(at, row.job_id.as_deref().unwrap_or_default(), "dead_letters");
                }
            }
            if let (Content::Order(order), Some(row)) = (&entry.incoming.content, &entry.event) {
                let is_within = order.partition == self.source.number()
                    && order.target.seq >= self.source.first_seq;
                self.orders += u64::from(is_within && row.outcome == Effect::Applied);
            }
            if self.slice.has(&entry.incoming) {
                self.fold.take(entry);
            }
        }
        Ok(())
    }

    /// Checks the rows after the last message.
    async fn rest(&mut self) -> anyhow::Result<()> {
        let end = Position { seq: i64::MAX, idx: 0 };
        while let Some(row) = self.ledger.event(end).await? {
            let at = Position::from(&row);
            self.surplus(at, &row.job_id, "job_events");
        }
        while let Some(row) = self.ledger.letter(end).await? {
            let at = Position::from(&row);
            self.surplus(at, row.job_id.as_deref().unwrap_or_default(), "dead_letters");
        }
        Ok(())
    }

    fn surplus(&mut self, at: Position, job_id: &str, table: &str) {
        if self.slice.is_first() {
            let what = format!("is in {table}, but not in the stream");
            self.differences.add(at, Some(job_id), &what);
        }
    }

    /// Missing messages must be recorded as skipped.
    fn missing(&mut self, from: i64, to: i64, gaps: &[Gap]) {
        let number = self.source.number();
        let is_recorded = gaps
            .iter()
            .any(|gap| gap.partition == number && gap.from_seq <= from && to <= gap.to_seq);
        if is_recorded {
            self.skipped += (to - from + 1).unsigned_abs();
        } else if self.slice.is_first() {
            let what = format!("the messages {from} to {to} are gone from the stream");
            self.differences.push(None, None, &what);
        }
    }
}
