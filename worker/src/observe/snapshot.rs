//! The state of all workers and partitions at one moment.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::refusals::Refusals;
use crate::entity::job::Status;
use crate::entity::partition::Model as Row;
use crate::store::observe::{Count, Counted, Letters, Quiet};

/// Everything that the overview shows.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Snapshot {
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// What could not be reached, and why; empty if everything could.
    pub problems: Vec<String>,
    /// How many jobs there are.
    pub jobs: JobCounts,
    /// The jobs in `provisioning` that have been silent for longest.
    pub quietest: Vec<Quiet>,
    /// How many dead letters wait for a decision, and how many callbacks are held behind them.
    pub dead_letters: DeadLetterCounts,
    /// All partitions, by number.
    pub partitions: Vec<PartitionState>,
    /// What the ingresses refused.
    pub refusals: Refusals,
    /// The last half hour, or the time since this worker started, oldest first.
    pub history: Vec<Sample>,
}

/// How many jobs there are in each status. Each status is counted up to a limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct JobCounts {
    /// Waiting for their workflow.
    pub queued: u64,
    /// Being provisioned.
    pub provisioning: u64,
    /// Provisioned.
    pub running: u64,
    /// Failed, as reported or presumed.
    pub failed: u64,
    /// The statuses of which there are more jobs than were counted.
    pub more: Vec<Status>,
    /// The longest silence of a job in `provisioning`, in seconds.
    pub oldest_silence_seconds: Option<f64>,
    /// When they were counted; with many jobs, less often than the rest.
    pub counted_at: Option<DateTime<Utc>>,
}

/// Dead letters by state, except discarded ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetterCounts {
    /// Could not be applied.
    pub dead: u64,
    /// Sound, but held behind a dead letter of their job.
    pub held: u64,
    /// Whether there are more of either than were counted.
    pub more: bool,
}

/// A partition: its checkpoint beside its stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct PartitionState {
    /// Its number.
    pub partition: i32,
    /// The epoch: grows with every acquisition.
    pub epoch: i64,
    /// The name of the worker that owns it, for people.
    pub owner: Option<String>,
    /// The random id of that process.
    pub owner_id: Option<String>,
    /// When its lease ends.
    pub lease_until: Option<DateTime<Utc>>,
    /// Since when its owners have listened without a gap.
    pub watched_since: Option<DateTime<Utc>>,
    /// The checkpoint: the stream sequence of the last applied message; 0 for none.
    pub applied_seq: i64,
    /// How many callbacks and internal events were applied, with any outcome.
    pub applied_callbacks: i64,
    /// When the checkpoint was set.
    pub applied_at: Option<DateTime<Utc>>,
    /// When the stream stored the message at the checkpoint.
    pub applied_received_at: Option<DateTime<Utc>>,
    /// The stream; none while the broker does not describe it.
    pub stream: Option<StreamState>,
    /// How many messages wait behind the checkpoint.
    pub lag_messages: Option<u64>,
    /// How long the first of them has waited, in seconds; 0 if there is none.
    pub lag_seconds: Option<f64>,
    /// Its dead letters.
    pub dead_letters: DeadLetterCounts,
    /// Dead letters since a callback was last applied.
    pub dead_letters_in_row: i32,
    /// Why it is stopped; none while it is not stopped.
    pub stopped_reason: Option<String>,
}

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Sample {
    /// When it was.
    pub at: DateTime<Utc>,
    /// Callbacks applied per second since the previous sample.
    pub callbacks_per_second: f64,
    /// Messages behind the checkpoints of all partitions; none while the broker did not answer.
    pub lag_messages: Option<u64>,
    /// From the stream's confirmation to the commit, in seconds: the mean over the checkpoints that
    /// moved since the previous sample; none if none did.
    pub accept_to_commit_seconds: Option<f64>,
}

/// What a partition's stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamState {
    /// The first stored sequence.
    pub first_seq: u64,
    /// The last one.
    pub last_seq: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its limit, in bytes.
    pub max_bytes: u64,
}

impl JobCounts {
    /// Adds up what was counted at one time.
    pub(super) fn sum<'a>(counted: impl Iterator<Item = &'a Counted>) -> Self {
        let mut counts = Self::default();
        for one in counted {
            for (status, count) in &one.jobs {
                match status {
                    Status::Queued => counts.queued += count.number,
                    Status::Provisioning => counts.provisioning += count.number,
                    Status::Running => counts.running += count.number,
                    Status::Failed => counts.failed += count.number,
                }
                if count.more && !counts.more.contains(status) {
                    counts.more.push(*status);
                }
            }
            if let Some(oldest) = one.oldest {
                let silence = one.now.signed_duration_since(oldest).as_seconds_f64();
                let longest = counts.oldest_silence_seconds.unwrap_or_default();
                counts.oldest_silence_seconds = Some(silence.max(longest));
            }
            counts.counted_at = Some(one.now);
        }
        counts
    }

    /// The number of jobs of a status.
    #[must_use]
    pub fn of(&self, status: Status) -> Count {
        let number = match status {
            Status::Queued => self.queued,
            Status::Provisioning => self.provisioning,
            Status::Running => self.running,
            Status::Failed => self.failed,
        };
        Count { number, more: self.more.contains(&status) }
    }
}

impl DeadLetterCounts {
    pub(super) fn sum<'a>(letters: impl Iterator<Item = &'a Letters>) -> Self {
        let mut counts = Self::default();
        for one in letters {
            counts.dead += one.dead.number;
            counts.held += one.held.number;
            counts.more |= one.dead.more || one.held.more;
        }
        counts
    }
}

impl PartitionState {
    pub(super) fn new(
        row: Row,
        stream: Option<StreamState>,
        names: &HashMap<String, String>,
        letters: &[Letters],
    ) -> Self {
        let applied = u64::try_from(row.applied_seq).unwrap_or_default();
        let own = letters.iter().filter(|letters| letters.partition == row.partition);
        let owner = row.owner.as_ref().and_then(|owner| names.get(owner)).cloned();
        Self {
            partition: row.partition,
            epoch: row.epoch,
            owner: owner.or_else(|| row.owner.clone()),
            owner_id: row.owner,
            lease_until: row.lease_until,
            watched_since: row.watched_since,
            applied_seq: row.applied_seq,
            applied_callbacks: row.applied_callbacks,
            applied_at: row.applied_at,
            applied_received_at: row.applied_received_at,
            lag_messages: stream.map(|stream| stream.last_seq.saturating_sub(applied)),
            lag_seconds: None,
            stream,
            dead_letters: DeadLetterCounts::sum(own),
            dead_letters_in_row: row.dead_letters_in_row,
            stopped_reason: row.stopped_reason,
        }
    }

    /// From the stream's confirmation of the message at the checkpoint to its commit, in seconds.
    #[must_use]
    pub fn latency_seconds(&self) -> Option<f64> {
        let latency = self.applied_at?.signed_duration_since(self.applied_received_at?);
        Some((latency.as_seconds_f64()).max(0.0))
    }
}
