//! What became of a load, counted in the database.

use std::time::Duration;

use e2e::check;
use e2e::load::{Load, Report, Running};
use e2e::stack::Stack;
use sea_orm::DatabaseConnection;
use worker::entity::job_event;

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

    let copies = proved(&db, &report, faults, others).await;
    let logs = stack.all_logs();
    assert!(!logs.contains("the partition is stopped"), "a partition was stopped for a while");
    assert_audited(stack).await;
    copies
}

/// Prints and checks the figures of a load that is applied. Returns how many status callbacks the
/// streams hold more than once.
pub(crate) async fn proved(
    db: &DatabaseConnection,
    report: &Report,
    faults: &str,
    others: &[&str],
) -> usize {
    let findings = check::exactly_once(db, &report.jobs, others).await.unwrap();
    let is_copy = |event: &job_event::Model| event.reason.as_deref() == Some("duplicate");
    let copies = events(db).await.iter().filter(|event| is_copy(event)).count();
    println!(
        "{faults}; {} callbacks accepted, {} tries repeated, {copies} copies recognised; {} lost, \
         {} repeated, {} reordered; {:.0}/s, p50 {:?}, p99 {:?}, at most {:?}",
        report.accepted(),
        report.retries,
        findings.lost.len(),
        findings.repeated.len(),
        findings.reordered.len(),
        report.rate(),
        report.latency(0.5),
        report.latency(0.99),
        report.latency(1.0),
    );
    assert!(findings.is_empty(), "{findings}");
    assert!(dead_letters(db).await.is_empty());
    let stopped: Vec<_> =
        partitions(db).await.into_iter().filter_map(|row| row.stopped_reason).collect();
    assert!(stopped.is_empty(), "{stopped:?}");
    copies
}
