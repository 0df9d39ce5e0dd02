//! How long it takes from a request to its committed row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::http_load::{Outcome, Pace, Requests, quantile, send};
use e2e::stack::{Db, Stack, TEST_SECRET};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::apply::watch;
use crate::callbacks;
use crate::report::Report;
use crate::streams::stored;
use crate::yardstick::partition_count;

const CONNECTIONS: usize = 64;
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Measures it on PostgreSQL, which can tell when each row was committed.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    report.part("latency", "from a request to its committed row, PostgreSQL, everything running");
    let builder = Stack::builder().db(Db::Postgres).partitions(partition_count());
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
    let maximum = outcome.per_second();
    report.figure("accepted flat out, 64 connections", maximum, "callbacks/s");
    // The callbacks to come wait for none of these.
    let (messages, _) = stored(&stack).await?;
    watch(&database, Instant::now(), 0, messages).await?;

    for (prefix, rate) in [("slow", 100.0), ("brisk", 1000.0), ("half", maximum / 2.0)] {
        let count = (rate * 2.0 * round.as_secs_f64()).ceil() as usize;
        let requests = requests(prefix, count);
        let pace = Pace::PerSecond(rate);
        let outcome = send(&[stack.ingress.addr], &requests, CONNECTIONS, pace).await?;
        let took = committed_after(&database, prefix, &outcome).await?;
        report.quantiles(&format!("at {rate:.0}/s"), |part| {
            Ok(*quantile(&took, part).context("nothing was committed")? as f64 / 1000.0)
        })?;
    }
    stack.shut_down().await
}

/// A callback each of another job.
fn requests(prefix: &str, count: usize) -> Arc<Requests> {
    let body = |number| callbacks::status(&format!("{prefix}-{number}"), 0, "provisioning");
    Requests::new(TEST_SECRET, (0..count).map(|number| body(number).to_string()))
}

/// How many microseconds after its request each row was committed, in order.
async fn committed_after(
    database: &DatabaseConnection,
    prefix: &str,
    outcome: &Outcome,
) -> Result<Vec<i64>> {
    let committed = format!(
        "SELECT job_id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint \
         AS us FROM job_events WHERE job_id LIKE '{prefix}-%'"
    );
    let committed = Statement::from_string(database.get_database_backend(), committed);
    let begun = Instant::now();
    let rows = loop {
        let rows = database.query_all_raw(committed.clone()).await?;
        if rows.len() == outcome.answered.len() {
            break rows;
        }
        ensure!(begun.elapsed() < LIMIT, "{} of {} rows", rows.len(), outcome.answered.len());
        tokio::time::sleep(POLL).await;
    };
    let mut at = HashMap::with_capacity(rows.len());
    for row in rows {
        at.insert(row.try_get::<String>("", "job_id")?, row.try_get::<i64>("", "us")?);
    }
    let mut took = Vec::with_capacity(at.len());
    for answered in &outcome.answered {
        let us = at.get(&format!("{prefix}-{}", answered.request)).context("a row is missing")?;
        took.push(us - answered.due_us);
    }
    took.sort_unstable();
    Ok(took)
}
