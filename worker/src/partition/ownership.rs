//! Owns one partition: acquires it, reads it, applies it, and acquires it again after any anomaly.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::DbErr;
use shared::partition::Partition;
use shared::turns::Turn;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::feed::{Basis, Feed, Trouble};
use super::lease::{Contradiction, Renewed};
use super::prefetch::{Batch, Received};
use super::recurring::Recurring;
use super::share::Slot;
use super::turns::{self, FULL};
use super::worker::Worker;
use super::{decision_log, janitor, metrics};
use crate::apply::{ApplyError, Limits, apply};
use crate::entity::partition::Model as Row;
use crate::liveness::{self, Silence};
use crate::rules::event::Incoming;
use crate::rules::stop_reason::{StopCode, StopReason};
use crate::store::batch::{Checkpoint, Ownership};
use crate::store::fault;
use crate::store::partitions::{self, Claim, Place};

/// How long a batch may take before it counts as failed.
const BATCH_LIMIT: Duration = Duration::from_secs(60);
/// The longest time between two attempts to acquire a partition that somebody else owns.
const FREE_RECHECK: Duration = Duration::from_secs(3);
/// How often the owner of a stopped partition checks whether the cause is gone.
const STOPPED_RECHECK: Duration = Duration::from_secs(30);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why an owner stopped serving.
enum End {
    Shutdown,
    /// The partition exceeds this worker's share.
    Surplus,
    /// Somebody else owns the partition now.
    Fenced,
    Anomaly(String),
    /// The database failed; what was committed may not be known.
    Failed(DbErr),
    Stopped(StopReason),
}

impl From<Contradiction> for End {
    fn from(contradiction: Contradiction) -> Self {
        match contradiction {
            Contradiction::Fenced => Self::Fenced,
            Contradiction::Restored { .. } => Self::Anomaly(contradiction.to_string()),
        }
    }
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
pub async fn own(worker: Arc<Worker>, partition: Partition, shutdown: CancellationToken) {
    let number = i32::from(partition.number());
    let mut backoff = BACKOFF.0;
    let mut held = None;
    let mut recurring = Recurring::default();
    let mut renewed = worker.renewed.clone();
    while !shutdown.is_cancelled() {
        // Hopeless attempts would hold the slots that other partitions need.
        let has_chance = worker.alone || held.is_some() || renewed.borrow().may_be_acquired(number);
        let slot = if has_chance { worker.share.take(partition) } else { None };
        let Some(slot) = slot else {
            recurring.clear();
            release(&worker, partition, held.take()).await;
            await_turn(&mut renewed, worker.lease, &shutdown).await;
            continue;
        };
        let begun = Instant::now();
        let claim = Claim {
            generation: worker.layout.generation(),
            me: &worker.id,
            lease: worker.lease,
            alone: worker.alone,
            // If this process still holds the partition, it has just found an anomaly.
            watch_gap: worker.silence.filter(|_| held.is_none()).map(Silence::longest_gap),
        };
        let db = worker.db.get();
        let acquired = partitions::acquire(&db, number, claim);
        let row = match worker.connections.answer(BATCH_LIMIT, acquired).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                drop(slot);
                recurring.clear();
                if held.take().is_some() {
                    lose(&worker, partition);
                }
                await_turn(&mut renewed, worker.lease, &shutdown).await;
                continue;
            }
            Err(error) => {
                let error = understand(&worker, error).await;
                tracing::warn!(%partition, error = fault::text(&error), "the partition can't be acquired");
                if fault::is_answer(&error)
                    && recurring.must_be_said(fault::identity(&error), worker.lease)
                {
                    say_stuck(partition, &error);
                }
                pause(grow(&mut backoff), &shutdown).await;
                continue;
            }
        };
        metrics::acquired();
        metrics::stopped(partition, stop_code(&row));
        tracing::debug!(%partition, epoch = row.epoch, applied_seq = row.applied_seq, "acquired");
        held = Some(row.epoch);
        let applied_before = row.applied_seq;
        let mut mine = Ownership {
            partition: number,
            generation: row.generation,
            epoch: row.epoch,
            owner: worker.id.clone(),
            applied_seq: row.applied_seq,
            dead_letters_in_row: row.dead_letters_in_row,
            place: Place::default(),
        };
        let end = serve(&worker, &slot, partition, &row, &mut mine, begun, &shutdown).await;
        // An attempt that took longer than the longest pause needs no further backoff.
        if mine.applied_seq > applied_before || begun.elapsed() > BACKOFF.1 {
            backoff = BACKOFF.0;
        }
        if mine.applied_seq > applied_before {
            recurring.clear();
        }
        match end {
            End::Shutdown => {}
            End::Surplus => {
                tracing::info!(%partition, "released: it is another worker's share");
                release(&worker, partition, held.take()).await;
            }
            End::Fenced => {
                recurring.clear();
                held = None;
                metrics::fenced();
                lose(&worker, partition);
                tracing::warn!(%partition, epoch = mine.epoch, "fenced: another worker owns it");
            }
            End::Anomaly(reason) => {
                tracing::warn!(%partition, reason, "reading the partition anew");
                pause(grow(&mut backoff), &shutdown).await;
            }
            End::Failed(error) => {
                let error = understand(&worker, error).await;
                tracing::warn!(
                    %partition, error = fault::text(&error),
                    "the database failed; reading the partition anew"
                );
                if recurring.must_be_said(fault::identity(&error), worker.lease) {
                    report_stuck(&worker, &mine, partition, &error).await;
                }
                pause(grow(&mut backoff), &shutdown).await;
            }
            End::Stopped(reason) => {
                report_stop(&worker, &mine, partition, &reason).await;
                // `ackline partitions accept`, or a restored database, changes the row.
                tokio::select! {
                    () = pause(STOPPED_RECHECK, &shutdown) => {}
                    () = changed(&mut renewed, &mine, &slot) => {}
                }
            }
        }
    }
    release(&worker, partition, held).await;
}

/// Waits until a renewal finds the row of a stopped partition changed, or gives the partition to
/// another worker.
async fn changed(renewed: &mut watch::Receiver<Renewed>, mine: &Ownership, slot: &Slot) {
    let stopped_at = Instant::now();
    let is_changed =
        |renewed: &Renewed| slot.is_surplus() || renewed.contradicts(mine, stopped_at).is_some();
    if renewed.wait_for(is_changed).await.is_err() {
        std::future::pending().await
    }
}

/// Releases a partition, if it is held.
async fn release(worker: &Worker, partition: Partition, epoch: Option<i64>) {
    let Some(epoch) = epoch else { return };
    let number = i32::from(partition.number());
    let unheard = worker.heard.unheard(partition).unwrap_or_default();
    lose(worker, partition);
    let db = worker.db.get();
    let released = partitions::release(&db, number, &worker.id, epoch, unheard);
    if let Err(error) = worker.connections.answer(BATCH_LIMIT, released).await {
        tracing::warn!(%partition, %error, "not released: its lease must run out");
    }
}

/// The partition is no longer this process's.
fn lose(worker: &Worker, partition: Partition) {
    metrics::lost(partition);
    worker.heard.end(partition);
}

/// Waits a little, but no longer than until the next renewal, because the share may have grown.
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

/// The reason of the stop in the row, if there is one.
fn stop_code(row: &Row) -> Option<StopCode> {
    row.stopped_reason.as_ref()?.parse().ok()
}

/// Learns from a failure which connections are no good, and finds its cause.
async fn understand(worker: &Worker, error: DbErr) -> DbErr {
    worker.connections.learn(&error);
    worker.connections.explain(error).await
}

/// Says why a partition does not go on although its owner keeps trying. Without an answer nothing can
/// be written down, and then it is not this partition that is stopped.
async fn report_stuck(worker: &Worker, mine: &Ownership, partition: Partition, error: &DbErr) {
    let reason = StopReason::Database { applied_seq: mine.applied_seq, error: fault::text(error) };
    match write_stop(worker, mine, Some(&reason)).await {
        Err(unwritten) if !fault::is_answer(error) && !fault::is_answer(&unwritten) => {}
        _ => {
            tracing::error!(%partition, %reason, "the partition does not go on; it is tried again");
            metrics::stopped(partition, Some(StopCode::Database));
        }
    }
}

/// The same, where there is nothing that it could be written into.
fn say_stuck(partition: Partition, error: &DbErr) {
    let code = StopCode::Database;
    let error = fault::text(error);
    tracing::error!(%partition, error, "{code}: the partition can't be acquired again and again");
    metrics::stopped(partition, Some(code));
}

async fn report_stop(worker: &Worker, mine: &Ownership, partition: Partition, reason: &StopReason) {
    tracing::error!(
        %partition, %reason, "the partition is stopped; nothing of it is lost or skipped"
    );
    metrics::stopped(partition, Some(reason.code()));
    if let Err(error) = write_stop(worker, mine, Some(reason)).await {
        tracing::warn!(%partition, %error, "the reason of the stop is not written down");
    }
}

async fn write_stop(
    worker: &Worker,
    mine: &Ownership,
    reason: Option<&StopReason>,
) -> Result<(), DbErr> {
    let reason = reason.map(ToString::to_string);
    let Ownership { partition, owner, epoch, .. } = mine;
    let db = worker.db.get();
    let written = partitions::set_stopped(&db, *partition, owner, *epoch, reason.as_deref());
    worker.connections.answer(BATCH_LIMIT, written).await
}

/// Serves a partition from its acquisition, which was `begun` then, to its end.
async fn serve(
    worker: &Worker,
    slot: &Slot,
    partition: Partition,
    row: &Row,
    mine: &mut Ownership,
    begun: Instant,
    shutdown: &CancellationToken,
) -> End {
    let acquired_at = Instant::now();
    let Worker { jetstream, id, traces, .. } = worker;
    let opened = Feed::open(jetstream, row, id, partition, traces);
    let (mut feed, basis) = tokio::select! {
        opened = opened => match opened {
            Ok(opened) => opened,
            Err(trouble) => return trouble.into(),
        },
        () = shutdown.cancelled() => return End::Shutdown,
    };
    metrics::taken_over(begun.elapsed());
    if let Err(error) = forget_stop(worker, mine, row, partition).await {
        return End::Failed(error);
    }
    let janitor = janitor::tend(worker, partition, mine.epoch);
    let owner = liveness::Owner {
        db: &worker.db,
        connections: &worker.connections,
        jetstream: &worker.jetstream,
        heard: &worker.heard,
        id: &worker.id,
        lease: worker.lease,
    };
    let watch = liveness::watch(owner, worker.silence, partition, row);
    let end = tokio::select! {
        end = read(worker, slot, &mut feed, &basis, mine, acquired_at, shutdown) => end,
        never = janitor => match never {},
        never = watch => match never {},
    };
    feed.close().await;
    end
}

/// The stream is in order again, so a stop that it caused is over.
async fn forget_stop(
    worker: &Worker,
    mine: &Ownership,
    row: &Row,
    partition: Partition,
) -> Result<(), DbErr> {
    // Only a committed batch ends that stop.
    let is_of_stream = stop_code(row).is_none_or(StopCode::is_of_stream);
    if row.stopped_reason.is_none() || !is_of_stream {
        return Ok(());
    }
    metrics::stopped(partition, None);
    write_stop(worker, mine, None).await
}

async fn read(
    worker: &Worker,
    slot: &Slot,
    feed: &mut Feed,
    basis: &Basis,
    mine: &mut Ownership,
    mut known_since: Instant,
    shutdown: &CancellationToken,
) -> End {
    let mut renewed = worker.renewed.clone();
    let mut connected = worker.connected.clone();
    let mut is_first = true;
    loop {
        // Checked with every renewal as well, because the client may drop the event.
        if let Err(trouble) = feed.check_connection() {
            return trouble.into();
        }
        let callbacks = tokio::select! {
            () = shutdown.cancelled() => return End::Shutdown,
            changed = renewed.changed() => {
                if changed.is_err() {
                    return End::Anomaly("the leases are no longer renewed".into());
                }
                if let Some(contradiction) = renewed.borrow_and_update().check(mine, known_since) {
                    return contradiction.into();
                }
                if slot.is_surplus() {
                    return End::Surplus;
                }
                continue;
            }
            Ok(()) = connected.changed() => continue,
            callbacks = feed.arrival(worker.batch_max) => match callbacks {
                Ok(callbacks) => callbacks,
                Err(trouble) => return trouble.into(),
            },
        };
        let counted = worker.turns.count(callbacks);
        let turn = tokio::select! {
            biased;
            () = shutdown.cancelled() => return End::Shutdown,
            turn = turns::take(&worker.turns, callbacks) => turn,
            () = feed.fill(FULL) => Turn::not_needed(),
        };
        let batch = feed.take(worker.batch_max);
        let applying = apply_counted(worker, basis, mine, &batch);
        let applying = worker.connections.answer(BATCH_LIMIT, applying);
        let applied = tokio::select! {
            biased;
            applied = applying => applied,
            never = feed.prefetch(worker.batch_max) => match never {},
            never = turn.expire() => match never {},
        };
        match applied {
            Ok(()) => {}
            Err(ApplyError::Fenced) => return End::Fenced,
            Err(ApplyError::DeadLetterLimit) => {
                return End::Stopped(StopReason::DeadLetters { applied_seq: mine.applied_seq });
            }
            Err(ApplyError::Failed(error)) => return End::Failed(error),
        }
        drop(counted);
        known_since = Instant::now();
        // Whatever stopped the partition is over with the first commit.
        if std::mem::take(&mut is_first) {
            metrics::stopped(basis.partition, None);
        }
        if let Some(last) = batch.messages.last() {
            feed.ack(last).await;
        }
    }
}

/// Applies a batch. If it has too many dead letters, or meets a row that somebody else holds locked,
/// applies it message by message, so that everything before that callback takes effect.
async fn apply_counted(
    worker: &Worker,
    basis: &Basis,
    mine: &mut Ownership,
    batch: &Batch,
) -> Result<(), ApplyError> {
    let whole = apply_up_to(worker, basis, mine, &batch.messages, &batch.incoming).await;
    let may_go_on = match &whole {
        Err(ApplyError::DeadLetterLimit) => true,
        Err(ApplyError::Failed(error)) => fault::is_locked(error),
        Ok(()) | Err(ApplyError::Fenced) => false,
    };
    if !may_go_on || batch.messages.len() == 1 {
        return whole;
    }
    for (message, entries) in batch.each() {
        apply_up_to(worker, basis, mine, std::slice::from_ref(message), entries).await?;
    }
    Ok(())
}

async fn apply_up_to(
    worker: &Worker,
    basis: &Basis,
    mine: &mut Ownership,
    messages: &[Received],
    incoming: &[Incoming],
) -> Result<(), ApplyError> {
    let Some(last) = messages.last() else { return Ok(()) };
    let limits = Limits {
        partition: basis.partition,
        lease: worker.lease,
        dead_letter_limit: worker.dead_letter_limit,
    };
    let (begun, began) = (Instant::now(), worker.traces.now());
    let checkpoint = Checkpoint {
        seq: last.seq,
        msg_id: last.msg_id.as_deref(),
        received_at: last.stored_at,
        stream_created_at: basis.created_at,
        callbacks: incoming.len(),
    };
    let known = &basis.known_refusals;
    let applied = apply(&worker.db.get(), mine, &checkpoint, incoming, known, limits).await?;
    metrics::committed(begun.elapsed(), incoming, &applied);
    decision_log::tell(&worker.traces, basis.partition, began, messages, incoming, &applied);
    Ok(())
}
