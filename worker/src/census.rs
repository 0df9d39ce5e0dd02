//! Counts the jobs of the partitions that this process owns, for its metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::entity::job::Status;
use crate::ownership::Process;
use crate::store::liveness;

/// How often they are counted, at the least and at the most: the counting reads an index entry for
/// every job, so it is rare.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(crate) fn describe_metrics() {
    use metrics::{Unit, describe_gauge};
    describe_gauge!("ackline_worker_jobs", "Jobs of the owned partitions, by status.");
    describe_gauge!(
        "ackline_worker_oldest_silence_seconds",
        Unit::Seconds,
        "How long the job has been silent that has been so for longest, among those in \
         provisioning of the owned partitions; 0 when there is none."
    );
}

/// Counts now and then, for as long as it is polled.
pub(crate) async fn take(process: Arc<Process>) {
    let Some(silence) = process.silence else { return };
    // Until then there is nothing to count, and the first count should not wait for the second.
    let mut renewed = process.renewed.clone();
    if renewed.wait_for(|renewed| !renewed.owned.is_empty()).await.is_err() {
        return;
    }
    let mut ticks = tokio::time::interval((silence.heartbeat / 6).clamp(INTERVAL.0, INTERVAL.1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let owned = Arc::clone(&process.renewed.borrow().owned);
        match liveness::count(&process.db, owned.keys().copied()).await {
            Ok(counted) => show(&counted),
            Err(error) => tracing::warn!(%error, "the jobs are not counted"),
        }
    }
}

fn show(counted: &[liveness::Counted]) {
    for (status, name) in [
        (Status::Queued, "queued"),
        (Status::Provisioning, "provisioning"),
        (Status::Running, "running"),
        (Status::Failed, "failed"),
    ] {
        let counted = counted.iter().find(|counted| counted.status == status);
        let jobs = counted.map_or(0, |counted| counted.jobs);
        metrics::gauge!("ackline_worker_jobs", "status" => name).set(jobs as f64);
        if status == Status::Provisioning {
            let silence = counted.map_or(0, |counted| {
                counted.now.signed_duration_since(counted.oldest).num_milliseconds().max(0)
            });
            metrics::gauge!("ackline_worker_oldest_silence_seconds").set(silence as f64 / 1000.0);
        }
    }
}
