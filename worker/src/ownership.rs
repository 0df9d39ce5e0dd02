//! Owns one partition: acquires it, reads it, applies it, and begins anew after any anomaly.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use sea_orm::{DatabaseConnection, DbErr};
use shared::partition::Partition;
use shared::trace::Traces;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ahead::{Batch, Received};
use crate::apply::{ApplyError, Limits, apply};
use crate::consumer::{Basis, Feed, Trouble};
use crate::decision;
use crate::entity::partition::Model as Row;
use crate::event::Incoming;
use crate::janitor;
use crate::liveness::{self, Silence};
use crate::measure;
use crate::share::{Place, Share};
use crate::store::batch::Ownership;
use crate::store::partitions::{self, Claim, Held};

/// How long a batch may take before it counts as failed.
const BATCH_LIMIT: Duration = Duration::from_secs(60);
/// How often a partition that somebody else owns is looked at, at the least.
const FREE_RECHECK: Duration = Duration::from_secs(3);
/// How often a stopped partition looks whether the reason is gone.
const STOPPED_RECHECK: Duration = Duration::from_secs(30);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How the reason of a stop begins that only a successful batch takes back.
pub(crate) const DEAD_LETTERS: &str = "too many dead letters in a row";

/// What all partitions of a process share.
#[derive(Debug)]
pub struct Process {
    /// The random id of this process.
    pub id: String,
    /// The database.
    pub db: DatabaseConnection,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// How many partitions there are.
    pub partitions: u16,
    /// For how long an acquisition or a batch holds a partition.
    pub lease: Duration,
    /// The most callbacks in a batch.
    pub batch_max: usize,
    /// How many dead letters may follow each other.
    pub dead_letter_limit: i32,
    /// How long what is applied stays in the streams; for ever when nothing may be purged.
    pub replay_horizon: Option<Duration>,
    /// When a job counts as silent; never when nobody may be presumed failed.
    pub silence: Option<Silence>,
    /// Whether no other process can be alive: SQLite's lock proves it.
    pub alone: bool,
    /// How many partitions this process may own.
    pub share: Arc<Share>,
    /// What the last renewal found to be ours.
    pub renewed: watch::Receiver<Renewed>,
    /// Changes with every connection to the broker.
    pub connected: watch::Receiver<()>,
    /// Where the spans of what is applied go.
    pub traces: Traces,
}

/// The result of a renewal of all leases.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The partitions that were free to be taken, if this process had room for one.
    pub free: Arc<HashSet<i32>>,
    /// When the renewal began.
    pub at: Instant,
    /// What it found to be ours.
    pub owned: Arc<HashMap<i32, Held>>,
}

impl Renewed {
    /// What is known before the first renewal.
    #[must_use]
    pub fn nothing() -> Self {
        Self { free: Arc::default(), at: Instant::now(), owned: Arc::default() }
    }

    /// Whether an attempt to acquire a partition can succeed.
    fn may_be_acquired(&self, partition: i32) -> bool {
        self.free.contains(&partition) || self.owned.contains_key(&partition)
    }

    /// Why an owner can't go on, if its row is not as it left it `since` then. A renewal that began
    /// earlier may have come before its last commit.
    fn contradicts(&self, mine: &Ownership, since: Instant) -> Option<End> {
        if self.at <= since {
            return None;
        }
        match self.owned.get(&mine.partition) {
            Some(held) if held.epoch != mine.epoch => Some(End::Fenced),
            // Whoever commits in our epoch is us, so the database itself was taken back.
            Some(held) if held.applied_seq != mine.applied_seq => Some(End::Anomaly(format!(
                "the checkpoint is {}, but {} was committed: the database was restored",
                held.applied_seq, mine.applied_seq
            ))),
            Some(_) => None,
            None => Some(End::Fenced),
        }
    }
}

/// Why an owner stopped serving.
enum End {
    Shutdown,
    /// Another worker has a better claim to the partition.
    Surplus,
    /// Somebody else owns the partition now.
    Fenced,
    Anomaly(String),
    Stopped(String),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Stop(reason) => Self::Stopped(reason),
            Trouble::Anomaly(reason) => Self::Anomaly(reason),
        }
    }
}

/// Owns a partition whenever it can, until `shutdown`.
pub async fn own(process: Arc<Process>, partition: Partition, shutdown: CancellationToken) {
    let number = i32::from(partition.number());
    let mut backoff = BACKOFF.0;
    let mut held = None;
    let mut renewed = process.renewed.clone();
    while !shutdown.is_cancelled() {
        // Attempts without a chance would hold the places that others need.
        let has_chance =
            process.alone || held.is_some() || renewed.borrow().may_be_acquired(number);
        let place = if has_chance { process.share.take(partition) } else { None };
        let Some(place) = place else {
            release(&process, partition, held.take()).await;
            await_turn(&mut renewed, process.lease, &shutdown).await;
            continue;
        };
        let begun = Instant::now();
        let claim = Claim {
            me: &process.id,
            lease: process.lease,
            alone: process.alone,
            // Whoever still holds the partition here has just found it not to be in order.
            watch_gap: process.silence.filter(|_| held.is_none()).map(Silence::longest_gap),
        };
        let acquired = partitions::acquire(&process.db, number, claim);
        let acquired = tokio::time::timeout(BATCH_LIMIT, acquired);
        let acquired = acquired
            .await
            .unwrap_or_else(|_| Err(DbErr::Custom("the database did not answer in time".into())));
        let row = match acquired {
            Ok(Some(row)) => row,
            Ok(None) => {
                drop(place);
                if held.take().is_some() {
                    measure::lost(partition);
                }
                await_turn(&mut renewed, process.lease, &shutdown).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%partition, %error, "the partition can't be acquired");
                pause(grow(&mut backoff), &shutdown).await;
                continue;
            }
        };
        measure::acquired();
        measure::stopped(partition, row.stopped_reason.is_some());
        tracing::debug!(%partition, epoch = row.epoch, applied_seq = row.applied_seq, "acquired");
        held = Some(row.epoch);
        let applied_before = row.applied_seq;
        let mut mine = Ownership {
            partition: number,
            epoch: row.epoch,
            owner: process.id.clone(),
            applied_seq: row.applied_seq,
            dead_letters_in_row: row.dead_letters_in_row,
        };
        let end = serve(&process, &place, partition, &row, &mut mine, begun, &shutdown).await;
        // What took longer than the longest pause needs no further slowing down.
        if mine.applied_seq > applied_before || begun.elapsed() > BACKOFF.1 {
            backoff = BACKOFF.0;
        }
        match end {
            End::Shutdown => {}
            End::Surplus => {
                tracing::info!(%partition, "released: it is another worker's share");
                release(&process, partition, held.take()).await;
            }
            End::Fenced => {
                held = None;
                measure::fenced();
                measure::lost(partition);
                tracing::warn!(%partition, epoch = mine.epoch, "fenced: another worker owns it");
            }
            End::Anomaly(reason) => {
                tracing::warn!(%partition, reason, "reading the partition anew");
                pause(grow(&mut backoff), &shutdown).await;
            }
            End::Stopped(reason) => {
                report_stop(&process, &mine, partition, &reason).await;
                // Whoever accepts what is gone, or restores the database, changes the row.
                tokio::select! {
                    () = pause(STOPPED_RECHECK, &shutdown) => {}
                    () = changed(&mut renewed, &mine) => {}
                }
            }
        }
    }
    release(&process, partition, held).await;
}

/// Waits until a renewal finds the row of a stopped partition changed.
async fn changed(renewed: &mut watch::Receiver<Renewed>, mine: &Ownership) {
    let stopped_at = Instant::now();
    let is_changed = |renewed: &Renewed| renewed.contradicts(mine, stopped_at).is_some();
    if renewed.wait_for(is_changed).await.is_err() {
        std::future::pending().await
    }
}

/// Gives a partition back, if it is held.
async fn release(process: &Process, partition: Partition, epoch: Option<i64>) {
    let Some(epoch) = epoch else { return };
    measure::lost(partition);
    let number = i32::from(partition.number());
    if let Err(error) = partitions::release(&process.db, number, &process.id, epoch).await {
        tracing::warn!(%partition, %error, "not released: its lease must run out");
    }
}

/// Waits a little; less when a renewal comes before, because the share may have grown with it.
async fn await_turn(
    renewed: &mut watch::Receiver<Renewed>,
    lease: Duration,
    shutdown: &CancellationToken,
) {
    tokio::select! {
        () = pause((lease / 4).min(FREE_RECHECK), shutdown) => {}
        Ok(()) = renewed.changed() => {}
    }
}

async fn pause(duration: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = shutdown.cancelled() => {}
    }
}

fn grow(backoff: &mut Duration) -> Duration {
    let now = *backoff;
    *backoff = (now * 2).min(BACKOFF.1);
    now
}

async fn report_stop(process: &Process, mine: &Ownership, partition: Partition, reason: &str) {
    tracing::error!(%partition, reason, "the partition is stopped; nothing of it is lost or skipped");
    measure::stopped(partition, true);
    let written =
        partitions::set_stopped(&process.db, mine.partition, &mine.owner, mine.epoch, Some(reason));
    if let Err(error) = written.await {
        tracing::warn!(%partition, %error, "the reason of the stop is not written down");
    }
}

/// Serves a partition from its acquisition, which was `begun` then, to whatever ends that.
async fn serve(
    process: &Process,
    place: &Place,
    partition: Partition,
    row: &Row,
    mine: &mut Ownership,
    begun: Instant,
    shutdown: &CancellationToken,
) -> End {
    let acquired_at = Instant::now();
    let Process { jetstream, id, partitions, traces, .. } = process;
    let opened = Feed::open(jetstream, row, id, partition, *partitions, traces);
    let (mut feed, basis) = tokio::select! {
        opened = opened => match opened {
            Ok(opened) => opened,
            Err(trouble) => return trouble.into(),
        },
        () = shutdown.cancelled() => return End::Shutdown,
    };
    measure::taken_over(begun.elapsed());
    if let Err(error) = forget_stop(process, mine, row, partition).await {
        return End::Anomaly(error.to_string());
    }
    let janitor = janitor::tend(process, partition, mine.epoch);
    let watch = liveness::watch(process, partition, row);
    let end = tokio::select! {
        end = read(process, place, &mut feed, &basis, mine, acquired_at, shutdown) => end,
        never = janitor => match never {},
        never = watch => match never {},
    };
    feed.close().await;
    end
}

/// The stream is in order again, so a stop that it was the reason of is over.
async fn forget_stop(
    process: &Process,
    mine: &Ownership,
    row: &Row,
    partition: Partition,
) -> Result<(), DbErr> {
    let Some(reason) = &row.stopped_reason else { return Ok(()) };
    if reason.starts_with(DEAD_LETTERS) {
        return Ok(());
    }
    measure::stopped(partition, false);
    partitions::set_stopped(&process.db, mine.partition, &mine.owner, mine.epoch, None).await
}

async fn read(
    process: &Process,
    place: &Place,
    feed: &mut Feed,
    basis: &Basis,
    mine: &mut Ownership,
    mut known_since: Instant,
    shutdown: &CancellationToken,
) -> End {
    let mut renewed = process.renewed.clone();
    let mut connected = process.connected.clone();
    loop {
        // Looked at with every renewal too: the event that says so may be dropped.
        if let Err(trouble) = feed.check_connection() {
            return trouble.into();
        }
        let batch = tokio::select! {
            () = shutdown.cancelled() => return End::Shutdown,
            changed = renewed.changed() => {
                if changed.is_err() {
                    return End::Anomaly("the leases are no longer renewed".into());
                }
                if let Some(end) = renewed.borrow_and_update().contradicts(mine, known_since) {
                    return end;
                }
                if place.is_surplus() {
                    return End::Surplus;
                }
                continue;
            }
            Ok(()) = connected.changed() => continue,
            batch = feed.next_batch(process.batch_max) => match batch {
                Ok(batch) => batch,
                Err(trouble) => return trouble.into(),
            },
        };
        let applying = apply_counted(process, basis, mine, &batch);
        let applied = tokio::select! {
            biased;
            applied = tokio::time::timeout(BATCH_LIMIT, applying) => applied,
            never = feed.read_ahead(process.batch_max) => match never {},
        };
        match applied {
            Ok(Ok(())) => {}
            Ok(Err(ApplyError::Fenced)) => return End::Fenced,
            Ok(Err(ApplyError::DeadLetterLimit)) => {
                return End::Stopped(format!(
                    "{DEAD_LETTERS}, after {}: a broken deployment rather than broken callbacks",
                    mine.applied_seq
                ));
            }
            Ok(Err(ApplyError::Failed(error))) => {
                return End::Anomaly(format!("the database failed: {error}"));
            }
            Err(_) => return End::Anomaly("a batch took too long".into()),
        }
        known_since = Instant::now();
        measure::stopped(basis.partition, false);
        if let Some(last) = batch.messages.last() {
            feed.ack(last).await;
        }
    }
}

/// Applies a batch; one with too many dead letters message by message, so that what comes before
/// the callback that is one too many takes effect.
async fn apply_counted(
    process: &Process,
    basis: &Basis,
    mine: &mut Ownership,
    batch: &Batch,
) -> Result<(), ApplyError> {
    match apply_up_to(process, basis, mine, &batch.messages, &batch.incoming).await {
        Err(ApplyError::DeadLetterLimit) if batch.messages.len() > 1 => {
            for (message, entries) in batch.each() {
                let message = std::slice::from_ref(message);
                apply_up_to(process, basis, mine, message, entries).await?;
            }
            Ok(())
        }
        other => other,
    }
}

async fn apply_up_to(
    process: &Process,
    basis: &Basis,
    mine: &mut Ownership,
    messages: &[Received],
    incoming: &[Incoming],
) -> Result<(), ApplyError> {
    let Some(last) = messages.last() else { return Ok(()) };
    let limits = Limits {
        partition: basis.partition,
        partitions: process.partitions,
        lease: process.lease,
        dead_letter_limit: process.dead_letter_limit,
    };
    let (begun, began) = (Instant::now(), process.traces.now());
    let applied = apply(&process.db, mine, last, incoming, basis, limits).await?;
    measure::committed(begun.elapsed(), incoming, &applied);
    decision::tell(&process.traces, basis.partition, began, messages, incoming, &applied);
    Ok(())
}
