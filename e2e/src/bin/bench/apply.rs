//! How fast callbacks are applied, beside a raw copy of the same rows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::accept::{stop_worker, without_worker};
use crate::callbacks;
use crate::report::Report;
use crate::streams::{fill, stored};

const LIMIT: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(20);
/// Jobs whose heartbeats are folded.
const BEATING: usize = 1000;
/// Jobs of a partition that are under way at once: more than a batch holds, so that no two
/// callbacks of a batch are of the same job.
const MANY: usize = 20_000;
/// Callbacks of each job.
const STEPS: usize = 3;

/// The body of a job's status callback: queued, provisioning, running.
fn status(job: &str, number: usize) -> String {
    let steps = ["queued", "provisioning", "running"];
    callbacks::status(job, number, steps[number % STEPS]).to_string()
}

/// The body of a job's heartbeat.
fn heartbeat(job: &str, number: usize) -> String {
    let mut body = callbacks::heartbeat(job, number);
    body["sent_at"] = (1_700_000_000 + number).into();
    body.to_string()
}

/// Measures it on a database, with so many callbacks of each kind.
pub(crate) async fn run(report: &mut Report, db: Db, events: usize) -> Result<()> {
    report.part(
        format!("apply, {}", db.name()),
        "callbacks that wait in the streams, until they are committed",
    );
    let mut stack = without_worker(db, 4 << 30).await?;
    let database = stack.db().await?;

    let jobs = events / STEPS;
    let count = STEPS * jobs;
    let expected = fill(&stack, (0..jobs).map(|n| format!("job-{n}")), MANY, STEPS, status).await?;
    let (_, bytes) = stored(&stack).await?;
    report.figure("status callbacks, in the streams", bytes / count as f64, "bytes a callback");
    let what = "status callbacks, each of another job of its batch";
    let rate = measure(report, &mut stack, expected, count, what).await?;
    if db == Db::Postgres {
        let copied = copy(&database, count).await?;
        report.figure("status callbacks, raw COPY of the same rows", copied, "callbacks/s");
        report.at_least("apply, status callbacks / raw COPY", rate / copied, 0.3);
    }

    stop_worker(&mut stack).await?;
    let alive = (0..jobs).map(|n| format!("alive-{n}"));
    let expected = expected + fill(&stack, alive, MANY, STEPS, heartbeat).await?;
    let what = "heartbeats, each of another job of its batch";
    measure(report, &mut stack, expected, count, what).await?;

    stop_worker(&mut stack).await?;
    let beats = events / BEATING;
    let more = fill(&stack, (0..BEATING).map(|n| format!("beat-{n}")), MANY, beats, heartbeat);
    let expected = expected + more.await?;
    let count = BEATING * beats;
    measure(report, &mut stack, expected, count, "heartbeats of 1000 jobs").await?;
    stack.shut_down().await
}

/// Starts the worker on what waits in the streams; callbacks in a second until all is applied.
async fn measure(
    report: &mut Report,
    stack: &mut Stack,
    expected: i64,
    callbacks: usize,
    what: &str,
) -> Result<f64> {
    let database = stack.db().await?;
    let before = wal_bytes(stack).await?;
    let rate = callbacks as f64 / apply_all(stack, &database, expected).await?.total();
    report.figure(what, rate, "callbacks/s");
    if let (Some(before), Some(after)) = (before, wal_bytes(stack).await?) {
        let each = (after - before) / callbacks as f64;
        report.figure(format!("{what}, WAL"), each, "bytes a callback");
    }
    Ok(rate)
}

/// How much PostgreSQL has written to its log so far.
async fn wal_bytes(stack: &Stack) -> Result<Option<f64>> {
    let Some(postgres) = &stack.postgres else { return Ok(None) };
    let written = postgres.psql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").await?;
    Ok(Some(written.trim().parse()?))
}

/// How the checkpoints moved: seconds since the worker was started, and messages applied.
pub(crate) struct Progress(Vec<(f64, i64)>);

impl Progress {
    /// Seconds from the first progress to the end.
    pub(crate) fn total(&self) -> f64 {
        self.at(1.0) - self.at(0.0)
    }

    /// Seconds when this part of the messages, 0 to 1, was applied.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let (first, last) = match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => (first.1, last.1),
            _ => return 0.0,
        };
        let wanted = first as f64 + part * (last - first) as f64;
        for pair in self.0.windows(2) {
            let ((from_s, from), (to_s, to)) = (pair[0], pair[1]);
            if to > from && to as f64 >= wanted {
                let share = (wanted - from as f64).max(0.0) / (to - from) as f64;
                return from_s + share * (to_s - from_s);
            }
        }
        self.0.last().map_or(0.0, |last| last.0)
    }
}

/// Starts the worker and waits until so many messages are applied.
pub(crate) async fn apply_all(
    stack: &mut Stack,
    database: &DatabaseConnection,
    expected: i64,
) -> Result<Progress> {
    let before = applied(database).await?;
    let begun = Instant::now();
    stack.start_worker().await?;
    watch(database, begun, before, expected).await
}

/// Waits until so many messages are applied.
pub(crate) async fn watch(
    database: &DatabaseConnection,
    begun: Instant,
    before: i64,
    expected: i64,
) -> Result<Progress> {
    let mut seen = vec![(0.0, before)];
    loop {
        let now = applied(database).await?;
        let at = begun.elapsed().as_secs_f64();
        // Until the first progress the worker was starting.
        if now == before {
            seen[0].0 = at;
        } else {
            seen.push((at, now));
        }
        if now >= expected {
            return Ok(Progress(seen));
        }
        ensure!(begun.elapsed() < LIMIT, "the backlog is not applied");
        tokio::time::sleep(POLL).await;
    }
}

/// The sum of all checkpoints.
async fn applied(database: &DatabaseConnection) -> Result<i64> {
    let sum = "SELECT CAST(sum(applied_seq) AS BIGINT) AS applied FROM partitions";
    let sum = Statement::from_string(database.get_database_backend(), sum);
    let row = database.query_one_raw(sum).await?.context("no partitions")?;
    Ok(row.try_get("", "applied")?)
}

/// Copies the rows of so many callbacks into tables that are like those they are in. Callbacks in
/// a second.
async fn copy(db: &DatabaseConnection, callbacks: usize) -> Result<f64> {
    let mut copying = String::from("BEGIN;");
    for (table, ours) in [("jobs", "id"), ("job_events", "job_id")] {
        // The server runs in its data directory.
        db.execute_unprepared(&format!(
            "COPY (SELECT * FROM {table} WHERE {ours} LIKE 'job-%') TO PROGRAM 'cat > {table}.copy';
             CREATE TABLE copied_{table} (LIKE {table} INCLUDING ALL)"
        ))
        .await?;
        copying += &format!("COPY copied_{table} FROM '{table}.copy';");
    }
    copying += "COMMIT";
    db.execute_unprepared("CHECKPOINT").await?;
    let begun = Instant::now();
    db.execute_unprepared(&copying).await?;
    let took = begun.elapsed().as_secs_f64();
    let counted = "SELECT count(*) AS events FROM copied_job_events";
    let counted = Statement::from_string(db.get_database_backend(), counted);
    let row = db.query_one_raw(counted).await?.context("no count")?;
    let events: i64 = row.try_get("", "events")?;
    ensure!(usize::try_from(events)? == callbacks, "{events} rows were copied of {callbacks}");
    Ok(callbacks as f64 / took)
}
