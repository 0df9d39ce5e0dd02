//! The renewal of a process's leases.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::DbErr;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hearing::Hearing;
use super::lease::Renewed;
use super::metrics;
use super::worker::Worker;
use crate::store::{fault, partitions};

/// How long an answer is waited for, however long the lease is.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Three times in a lease: reports that this process is alive, divides the partitions among the
/// live processes, renews its leases and, while it has a free slot, looks for free partitions. It
/// also removes the rows of processes that are long dead.
///
/// A process that has not heard the broker for a lease is not alive to the others, and gives all its
/// partitions back: it would hold up what they could apply.
///
/// `renewed` is called after each renewal, with whether the process is deaf. Returns when the database has gone over to other streams
/// than the worker's.
pub async fn renew(
    worker: Arc<Worker>,
    name: String,
    renewals: watch::Sender<Renewed>,
    renewed: impl Fn(bool),
) {
    let Worker { connections, id, lease, .. } = &*worker;
    let lease = *lease;
    let mut ticks = tokio::time::interval(lease / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hearing = Hearing::new(worker.layout);
    loop {
        ticks.tick().await;
        let at = Instant::now();
        let db = &worker.renewals.get();
        let is_deaf = hearing.is_deaf(lease);
        let renewal = async {
            let alive = if is_deaf {
                partitions::leave(db, id).await?;
                0
            } else {
                partitions::keep_alive(db, id, &name, lease).await?;
                let workers = partitions::count_workers(db, id, lease).await?;
                if workers.long_dead > 0
                    && let Err(error) = partitions::bury(db, lease).await
                {
                    tracing::warn!(%error, "the rows of workers that are long dead stay for now");
                }
                // The row of a crashed process looks alive for a while.
                if worker.alone { 1 } else { workers.sharing() }
            };
            worker.share.divide(worker.layout.partitions(), alive);
            let generation = partitions::generation(db).await?;
            let unheard = worker.heard.longest_unheard();
            metrics::ingress_unheard(unheard);
            let owned = partitions::renew(db, id, lease, unheard).await?;
            let has_room = worker.share.has_room();
            let free = if has_room { partitions::free(db).await? } else { HashSet::new() };
            Ok::<_, DbErr>((generation, owned, free))
        };
        // A database that vanished silently must not delay the renewals when it is back.
        let renewal = connections.answer(lease.min(ANSWER_LIMIT), renewal);
        let (renewed_now, ()) = tokio::join!(renewal, hearing.ask(&worker.jetstream, lease / 4));
        if let Err(error) = &renewed_now {
            connections.learn(error);
            if !fault::is_answer(error) {
                // Batches may be waiting on connections of the same kind.
                connections.suspect().await;
            }
        }
        match renewed_now {
            Ok((Some(generation), ..)) if generation != worker.layout.generation() => return,
            Ok((_, owned, free)) => {
                metrics::owned(owned.len());
                renewals.send_replace(Renewed { free: Arc::new(free), at, owned: Arc::new(owned) });
                renewed(is_deaf);
            }
            Err(error) => {
                let error = connections.explain(error).await;
                tracing::warn!(error = fault::text(&error), "the leases are not renewed");
            }
        }
    }
}
