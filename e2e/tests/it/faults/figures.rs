//! What became of a load, counted in the database.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use e2e::load::{Load, Report, Running};
use e2e::stack::Stack;

use crate::expect::*;

/// Jobs until it is stopped, so that every fault meets callbacks on their way. A callback that is
/// tried again is the very same, so that heartbeats can be counted as exactly as everything else.
pub(crate) fn endless(stack: &Stack, connections: usize) -> Load {
    let mut load = Load::new(stack.ingress.addr, stack.secret(), usize::MAX / 4);
    load.connections = connections;
    load.max_tries = 10_000;
    load.retry_pause = Duration::from_millis(50);
    load.sign_anew = false;
    load
}

/// Waits until this many more callbacks are accepted.
pub(crate) async fn goes_on(stack: &Stack, running: &Running, more: u64) {
    let target = running.accepted() + more;
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= target).await;
}

/// Waits until all streams have a leader and all their copies are up to date.
pub(crate) async fn wait_until_whole(stack: &Stack) {
    stack
        .wait_until("every copy of every stream is up to date", SOON, async || {
            stack.nats.is_whole().await.is_ok_and(|is_whole| is_whole)
        })
        .await;
}

/// Lets the load end, waits until all of it is applied, and prints and checks its figures; `faults`
/// says what it went through, `others` are the jobs that the test has beside the load. Returns how
/// many status callbacks the streams hold more than once.
pub(crate) async fn conclude(
    stack: &Stack,
    running: Running,
    faults: &str,
    others: &[&str],
) -> usize {
    running.stop();
    let report = running.finish().await.unwrap();
    let db = stack.db().await.unwrap();
    wait_until_whole(stack).await;
    wait_until_applied(stack, &db).await;

    let figures = count(stack, &report).await;
    println!(
        "{faults}; {} callbacks accepted, {} tries repeated, {} copies recognised; {} lost, {} \
         repeated, {} reordered; {:.0}/s, p50 {:?}, p99 {:?}, at most {:?}",
        report.accepted(),
        report.retries,
        figures.copies,
        figures.lost,
        figures.repeated,
        figures.reordered,
        report.rate(),
        report.latency(0.5),
        report.latency(0.99),
        report.latency(1.0),
    );
    assert_eq!((figures.lost, figures.repeated, figures.reordered), (0, 0, 0));
    assert_load_exactly_once(&db, &report, others).await;
    assert!(dead_letters(&db).await.is_empty());
    let stopped: Vec<_> =
        partitions(&db).await.into_iter().filter_map(|row| row.stopped_reason).collect();
    assert!(stopped.is_empty(), "{stopped:?}");
    let logs = stack.all_logs();
    assert!(!logs.contains("the partition is stopped"), "a partition was stopped for a while");
    assert_audited(stack).await;
    figures.copies
}

#[derive(Debug, Default)]
struct Figures {
    /// Status callbacks that the stream holds more than once, and that took effect once.
    copies: usize,
    /// Accepted callbacks without an effect.
    lost: usize,
    /// Effects beyond the first of a callback.
    repeated: usize,
    /// Jobs whose callbacks took effect in another order.
    reordered: usize,
}

async fn count(stack: &Stack, report: &Report) -> Figures {
    let db = stack.db().await.unwrap();
    let heartbeats: HashMap<String, usize> = jobs(&db)
        .await
        .into_iter()
        .map(|job| (job.id, usize::try_from(job.heartbeat_count).unwrap()))
        .collect();
    let mut figures = Figures::default();
    let mut effects: HashMap<String, Vec<String>> = HashMap::new();
    for event in events(&db).await {
        if event.reason.as_deref() == Some("duplicate") {
            figures.copies += 1;
        } else {
            effects.entry(event.job_id).or_default().extend(event.event_id);
        }
    }
    for job in &report.jobs {
        let sent: Vec<&str> = job
            .accepted
            .iter()
            .filter(|sent| sent.status.is_some())
            .map(|sent| sent.event_id.as_str())
            .collect();
        let mut seen = HashSet::new();
        let mut first = effects.remove(&job.job_id).unwrap_or_default();
        first.retain(|id| {
            let is_first = seen.insert(id.clone());
            figures.repeated += usize::from(!is_first);
            is_first
        });
        figures.lost += sent.iter().filter(|id| !seen.contains(**id)).count();
        let found: Vec<&str> = sent.iter().copied().filter(|id| seen.contains(*id)).collect();
        first.retain(|id| sent.contains(&id.as_str()));
        figures.reordered += usize::from(first != found);

        let beats = job.accepted.len() - sent.len();
        let counted = heartbeats.get(&job.job_id).copied().unwrap_or_default();
        figures.lost += beats.saturating_sub(counted);
        figures.repeated += counted.saturating_sub(beats);
    }
    figures
}
