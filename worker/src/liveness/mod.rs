//! Finds the jobs that fell silent. The owner of a partition looks for them periodically, and
//! reports each to the partition's stream. The rules decide when the report is applied, in order
//! with the callbacks.
//!
//! After an outage every job looks silent. So an owner presumes no job failed until it has been
//! connected and up to date for as long as the job may be silent. Silence is measured by one clock,
//! the broker's, which also gave the jobs their times. How long the owner has listened is measured
//! by its own monotonic clock, and between owners by the database's clock. It has listened to nobody
//! while no ingress could be heard.

mod heard;
mod watch;

use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Info;
use bytes::BytesMut;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use shared::bundle;
use shared::partition::Partition;
use shared::stream::{ContractError, has_leader};
use tokio::time::Instant;

pub use self::heard::Heard;
use self::watch::Watch;
use crate::apply::internal;
use crate::entity::partition::Model as Row;
use crate::rules::event::{Position, lost_body};
use crate::store::liveness::{Limits, Silent, Soonest, silent, soonest};
use crate::store::partitions;
use crate::store::pool::{Connections, Pool};

/// The shortest and the longest time between two rounds.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A shorter interruption is never a gap.
const SHORTEST_GAP: Duration = Duration::from_millis(500);
/// Nor is a shorter time without an ingress: a restart takes as long.
const SHORTEST_UNHEARD: Duration = Duration::from_secs(5);
/// How long a round may take.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
/// The most silent jobs that a round reports; if there are more, the next round follows at once.
const MAX_LOST: usize = bundle::MAX_CALLBACKS;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// When a job counts as silent.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// After how long in `provisioning` without a sign of life.
    pub heartbeat: Duration,
    /// After how long in `queued`.
    pub queued: Duration,
}

impl Silence {
    /// The longest interruption after which a partition still counts as watched throughout. For a
    /// job that beats three times in its timeout, this gap plus a beat on each side is shorter than
    /// the timeout.
    #[must_use]
    pub fn longest_gap(self) -> Duration {
        (self.heartbeat / 4).max(SHORTEST_GAP)
    }

    /// The longest time without a word of an ingress after which a partition still counts as
    /// watched.
    #[must_use]
    pub fn longest_unheard(self) -> Duration {
        (self.heartbeat / 4).max(SHORTEST_UNHEARD)
    }

    fn interval(self) -> Duration {
        (self.heartbeat / 30).clamp(INTERVAL.0, INTERVAL.1)
    }
}

pub(crate) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_histogram};
    describe_counter!(
        "ackline_worker_lost_total",
        "Silent jobs that the partitions' streams were told of."
    );
    metrics::counter!("ackline_worker_lost_total").increment(0);
    describe_histogram!(
        "ackline_worker_sweep_seconds",
        Unit::Seconds,
        "How long the database takes to name a partition's silent jobs."
    );
}

/// What counts as silent at this time of the stream, for an owner that has `watched` this long.
fn limits(silence: Silence, watched: Duration, now: DateTime<Utc>) -> Limits {
    let before = |timeout: Duration| {
        let timeout = TimeDelta::from_std(timeout).ok().filter(|_| watched >= timeout)?;
        now.checked_sub_signed(timeout)
    };
    Limits {
        heard_before: before(silence.heartbeat),
        queued_before: before(silence.queued),
        now,
        longest_own_s: i64::try_from(watched.as_secs()).unwrap_or(i64::MAX),
    }
}

/// The time before which no job can become silent.
fn first_silence(silence: Silence, soonest: Soonest) -> DateTime<Utc> {
    let after = |heard: Option<DateTime<Utc>>, timeout: Duration| {
        heard?.checked_add_signed(TimeDelta::from_std(timeout).ok()?)
    };
    let Soonest { heard, queued, own } = soonest;
    let all = [after(heard, silence.heartbeat), after(queued, silence.queued), own];
    all.into_iter().flatten().min().unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The process that owns the partition.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The database.
    pub db: &'a Pool,
    /// Which connections to it are used.
    pub connections: &'a Connections,
    /// The broker.
    pub jetstream: &'a jetstream::Context,
    /// What is heard of ingresses.
    pub heard: &'a Heard,
    /// The random id of the process.
    pub id: &'a str,
    /// How long an acquisition holds a partition.
    pub lease: Duration,
}

/// Looks for silent jobs for as long as it is polled: while the partition is owned and read.
/// Without a `silence`, no job is presumed failed.
pub async fn watch(
    owner: Owner<'_>,
    silence: Option<Silence>,
    partition: Partition,
    row: &Row,
) -> Infallible {
    let Some(silence) = silence else { return std::future::pending().await };
    // The acquisition set the lease's end to one lease after its own time.
    let acquired = row
        .lease_until
        .and_then(|until| until.checked_sub_signed(TimeDelta::from_std(owner.lease).ok()?));
    let ago = |time: DateTime<Utc>| {
        Some(acquired?.signed_duration_since(time).to_std().unwrap_or_default())
    };
    let before = row.watched_since.and_then(ago);
    owner.heard.begin(partition, before.and(row.watched_until).and_then(ago));
    let mut sweeper = Sweeper {
        owner,
        partition,
        epoch: row.epoch,
        silence,
        watch: Watch::new(silence.longest_gap(), before, Instant::now()),
        end: None,
        quiet: None,
    };
    let sweep = sweep(&mut sweeper);
    let client = owner.jetstream.client();
    tokio::select! {
        never = sweep => never,
        never = owner.heard.listen(&client, partition) => never,
    }
}

/// Looks, round by round.
async fn sweep(sweeper: &mut Sweeper<'_>) -> Infallible {
    let Sweeper { owner, partition, silence, .. } = *sweeper;
    loop {
        let more = match owner.connections.answer(ROUND_LIMIT, sweeper.round()).await {
            Ok(more) => more,
            // The watch continues: if this lasts longer than a gap, the next answer ends it.
            Err(error) => {
                let error = &*error;
                tracing::warn!(%partition, error, "silent jobs are not looked for; trying again");
                false
            }
        };
        let pause = if more { INTERVAL.0 } else { silence.interval() };
        tokio::time::sleep(pause).await;
    }
}

struct Sweeper<'a> {
    owner: Owner<'a>,
    partition: Partition,
    epoch: i64,
    silence: Silence,
    watch: Watch,
    /// Where the stream ended in the previous round.
    end: Option<i64>,
    /// While the stream ends there, no job is silent before this time of the stream.
    quiet: Option<(i64, DateTime<Utc>)>,
}

/// A stream's description, and the time at which the broker gave it.
#[derive(Deserialize)]
struct Described {
    ts: DateTime<Utc>,
    #[serde(flatten)]
    info: Info,
}

impl Sweeper<'_> {
    /// Runs one round. Returns whether the next one should follow at once.
    async fn round(&mut self) -> Result<bool, Fault> {
        let Self { owner, partition, epoch, .. } = *self;
        let described = describe(owner.jetstream, partition).await?;
        let now = Instant::now();
        if let Err(why) = self.watch.hear(now, described.ts) {
            self.begin_anew(why).await?;
        }
        let is_heard = owner.heard.is_heard(partition, self.silence.longest_unheard());
        if !is_heard && self.watch.has_begun() {
            self.begin_anew("no ingress was heard for too long").await?;
        }
        let end = i64::try_from(described.info.state.last_sequence)?;
        let end_before = self.end.replace(end);
        if self.quiet.is_some_and(|(there, until)| there == end && described.ts < until) {
            return Ok(false);
        }
        let number = i32::from(partition.number());
        let committed = partitions::committed(&owner.db.get(), number, owner.id, epoch).await?;
        // Somebody else owns the partition; our reader is about to notice.
        let Some(committed) = committed else { return Ok(false) };
        // Everything that the stream held a round ago, including that round's own reports.
        if end_before.is_none_or(|end| committed.row.applied_seq < end) {
            return Ok(false);
        }
        if !self.watch.has_begun() {
            if !is_heard {
                return Ok(false);
            }
            self.write(true).await?;
            self.watch.begin(Instant::now());
        }
        let limits = limits(self.silence, self.watch.watched(now), described.ts);
        let found = {
            let begun = Instant::now();
            let found = silent(&owner.db.get(), number, limits, MAX_LOST as u64).await?;
            metrics::histogram!("ackline_worker_sweep_seconds")
                .record(begun.elapsed().as_secs_f64());
            found
        };
        if found.is_empty() {
            // The database is asked again only if something has happened, or if a timeout can have
            // expired.
            if committed.row.applied_seq >= end {
                let soonest = soonest(&owner.db.get(), number).await?;
                self.quiet = Some((end, first_silence(self.silence, soonest)));
            }
            return Ok(false);
        }
        self.tell(&found, described.ts).await?;
        Ok(found.len() == MAX_LOST)
    }

    /// Reports the silent jobs to the stream.
    async fn tell(&mut self, found: &[Silent], now: DateTime<Utc>) -> Result<(), Fault> {
        let Self { owner, partition, .. } = *self;
        let max_payload = owner.jetstream.client().server_info().max_payload;
        let max_bytes = bundle::MAX_BYTES.min(max_payload.saturating_sub(bundle::MAX_HEADER_BYTES));
        let mut payload = BytesMut::new();
        let mut told = 0_u64;
        for Silent { id, last_seq, last_idx } in found {
            let body = lost_body(id, Position { seq: *last_seq, idx: *last_idx });
            let entry = internal::entry("worker", id, now.timestamp_millis(), &body);
            // What does not fit is found again in the next round.
            if payload.len() + entry.len() > max_bytes {
                break;
            }
            payload.extend_from_slice(&entry);
            told += 1;
        }
        let subject = partition.internal_subject();
        let payload = payload.freeze();
        let published = internal::publish(owner.jetstream, partition, subject, payload).await;
        let seq = match published {
            Ok(seq) => seq,
            Err(error) => {
                // A stream that refuses workers may have refused senders as well.
                self.begin_anew("the stream does not take what it is told").await?;
                return Err(error.into());
            }
        };
        self.end = self.end.max(Some(seq));
        metrics::counter!("ackline_worker_lost_total").increment(told);
        tracing::info!(%partition, jobs = told, seq, "silent jobs: the stream is told");
        Ok(())
    }

    /// Forgets the watch.
    async fn begin_anew(&mut self, why: &'static str) -> Result<(), sea_orm::DbErr> {
        tracing::warn!(partition = %self.partition, why, "the watch for silent jobs begins anew");
        self.watch.forget();
        self.end = None;
        self.quiet = None;
        self.write(false).await
    }

    async fn write(&self, is_watched: bool) -> Result<(), sea_orm::DbErr> {
        let number = i32::from(self.partition.number());
        let Owner { db, id, .. } = self.owner;
        partitions::set_watched(&db.get(), number, id, self.epoch, is_watched).await
    }
}

async fn describe(
    jetstream: &jetstream::Context,
    partition: Partition,
) -> Result<Described, Fault> {
    let subject = format!("STREAM.INFO.{}", partition.stream());
    let described: Described = match jetstream.request(subject, &serde_json::json!({})).await? {
        jetstream::response::Response::Ok(described) => described,
        jetstream::response::Response::Err { error } => return Err(error.into()),
    };
    if has_leader(&described.info) {
        Ok(described)
    } else {
        Err(ContractError::NoLeader(partition.stream()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
    }

    #[test]
    fn the_first_silence_is_that_of_the_job_whose_time_runs_out_first() {
        let silence =
            Silence { heartbeat: Duration::from_secs(180), queued: Duration::from_secs(1800) };
        let none = Soonest::default();
        assert_eq!(first_silence(silence, none), DateTime::<Utc>::MAX_UTC);
        let heard = Soonest { heard: Some(there(0)), ..none };
        assert_eq!(first_silence(silence, heard), there(180));
        let queued = Soonest { queued: Some(there(-1700)), ..heard };
        assert_eq!(first_silence(silence, queued), there(100));
        assert_eq!(first_silence(silence, Soonest { own: Some(there(50)), ..queued }), there(50));
    }

    #[test]
    fn nobody_is_silent_for_longer_than_somebody_has_listened() {
        let silence =
            Silence { heartbeat: Duration::from_secs(180), queued: Duration::from_secs(1800) };
        let at = |watched| limits(silence, Duration::from_secs(watched), there(0));
        assert_eq!((at(179).heard_before, at(179).queued_before), (None, None));
        assert_eq!((at(180).heard_before, at(180).queued_before), (Some(there(-180)), None));
        assert_eq!(at(1800).queued_before, Some(there(-1800)));
        assert_eq!((at(59).longest_own_s, at(59).now), (59, there(0)));
    }
}
