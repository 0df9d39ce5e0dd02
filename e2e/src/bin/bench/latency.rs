//! How long it takes from a request to its committed row.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use e2e::stack::{Db, Stack, TEST_SECRET};
use e2e::volley::{Outcome, Pace, Requests, send};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::json;
use shared::partition::Partition;

use crate::report::Report;
use crate::yardstick::PARTITIONS;

const CONNECTIONS: usize = 64;
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Measures it on PostgreSQL, which can tell when each row was committed.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    report.part("latency", "from a request to its committed row, PostgreSQL, everything running");
    let builder = Stack::builder().db(Db::Postgres).partitions(PARTITIONS);
    let mut stack = builder.stream_max_bytes(4 << 30).start().await?;
    let postgres = stack.postgres.as_mut().context("no PostgreSQL")?;
    postgres.psql("ALTER SYSTEM SET track_commit_timestamp = on").await?;
    postgres.stop_server().await?;
    postgres.restart().await?;
    stack.start_worker().await?;
    let database = stack.db().await?;

    let flat_out = requests("flat-out", 100_000);
    let pace = Pace::AsAnswered(round);
    let outcome = send(&[stack.ingress.addr], &flat_out, CONNECTIONS, pace).await?;
    ensure!(outcome.refused == 0, "{} were refused", outcome.refused);
    let maximum = outcome.per_second();
    report.figure("accepted flat out, 64 connections", maximum, "callbacks/s");
    settled(&stack, &database).await?;

    for (prefix, rate) in [("slow", 100.0), ("brisk", 1000.0), ("half", maximum / 2.0)] {
        let count = (rate * 2.0 * round.as_secs_f64()).ceil() as usize;
        let requests = requests(prefix, count);
        let pace = Pace::PerSecond(rate);
        let outcome = send(&[stack.ingress.addr], &requests, CONNECTIONS, pace).await?;
        ensure!(outcome.refused == 0, "{} were refused", outcome.refused);
        let took = committed_after(&database, prefix, &outcome).await?;
        for (part, called) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            let index = (part * took.len() as f64).ceil() as usize;
            let us = took.get(index.saturating_sub(1)).context("nothing was committed")?;
            report.figure(format!("at {rate:.0}/s, {called}"), *us as f64 / 1000.0, "ms");
        }
    }
    stack.shut_down().await
}

/// A callback each of another job.
fn requests(prefix: &str, count: usize) -> std::sync::Arc<Requests> {
    let body = |number| {
        json!({
            "job_id": format!("{prefix}-{number}"), "status": "provisioning",
            "event_id": format!("{prefix}-{number}"),
            "workflow_run_id": "18234567890", "run_attempt": 1,
        })
        .to_string()
    };
    Requests::new(TEST_SECRET, (0..count).map(body))
}

/// Waits until the worker has nothing left to do.
async fn settled(stack: &Stack, database: &DatabaseConnection) -> Result<()> {
    let jetstream = jetstream::new(stack.nats.client().await?);
    let mut stored = 0;
    for partition in Partition::all(PARTITIONS) {
        let stream = jetstream.get_stream(partition.stream()).await?;
        stored += i64::try_from(stream.cached_info().state.last_sequence)?;
    }
    let begun = Instant::now();
    while crate::apply::applied(database).await? < stored {
        ensure!(begun.elapsed() < LIMIT, "the worker does not catch up");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// How many microseconds after its request each row was committed, in order.
async fn committed_after(
    database: &DatabaseConnection,
    prefix: &str,
    outcome: &Outcome,
) -> Result<Vec<i64>> {
    let committed = format!(
        "SELECT event_id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint \
         AS us FROM job_events WHERE event_id LIKE '{prefix}-%'"
    );
    let committed = Statement::from_string(database.get_database_backend(), committed);
    let begun = Instant::now();
    let rows = loop {
        let rows = database.query_all_raw(committed.clone()).await?;
        if rows.len() == outcome.shots.len() {
            break rows;
        }
        ensure!(begun.elapsed() < LIMIT, "{} of {} rows", rows.len(), outcome.shots.len());
        tokio::time::sleep(POLL).await;
    };
    let mut at = HashMap::with_capacity(rows.len());
    for row in rows {
        at.insert(row.try_get::<String>("", "event_id")?, row.try_get::<i64>("", "us")?);
    }
    let mut took = Vec::with_capacity(at.len());
    for shot in &outcome.shots {
        let us = at.get(&format!("{prefix}-{}", shot.request)).context("a row is missing")?;
        took.push(us - shot.due_us);
    }
    took.sort_unstable();
    Ok(took)
}
