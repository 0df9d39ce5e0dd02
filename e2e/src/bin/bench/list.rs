//! How long it takes to show jobs among a million, and to find ten silent ones.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use e2e::http::Client;
use e2e::http_load::quantile;
use e2e::silence_fixture::{PARTITIONS, SilenceFixture, sweep};
use e2e::stack::{Db, Stack};
use hyper::Method;
use sea_orm::DatabaseConnection;
use serde_json::Value;

use crate::report::Report;

const ROUNDS: usize = 400;
/// A search that finds nothing reads all jobs.
const SEARCHES: usize = 5;
const SWEEPS: usize = 50;
const SILENT: u64 = 10;
const TARGET_MS: f64 = 50.0;

/// Measures it on a database, with a worker that has nothing else to do.
pub(crate) async fn run(report: &mut Report, db: Db, jobs: u64) -> Result<()> {
    report.part(format!("list, {}", db.name()), &format!("shows and looks for jobs among {jobs}"));
    let partitions = u16::try_from(PARTITIONS)?;
    // The worker presumes nothing failed meanwhile.
    let builder = Stack::builder().db(db).partitions(partitions).env("HEARTBEAT_TIMEOUT", "12h");
    let mut stack = builder.start().await?;
    let database = stack.db().await?;
    let fixture = SilenceFixture {
        finished: jobs / 2,
        alive: jobs / 4,
        patient: jobs / 4 - SILENT,
        silent: SILENT,
    };
    fixture.fill(&database).await?;
    sweeps(report, &database).await?;

    let mut client = Client::new(stack.worker.ops);
    let deep = deep(&mut client, fixture.finished).await?;
    for (what, path, rounds) in [
        ("first page of the console", "/jobs", ROUNDS),
        ("first page of the API", "/api/v1/jobs", ROUNDS),
        ("first page of one status", "/api/v1/jobs?status=running", ROUNDS),
        ("a page in the middle", &deep, ROUNDS),
        ("one job", "/job?id=finished-7", ROUNDS),
        ("a search that finds nothing", "/api/v1/jobs?search=nothing", SEARCHES),
    ] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            let answer = client.send(Method::GET, path, &[], Bytes::new()).await?;
            times.push(begun.elapsed());
            ensure!(answer.status == 200, "{path}: {}", answer.text());
        }
        let p99 = show(report, what, times, [("p50", 0.5), ("p99", 0.99)])?;
        if db == Db::Postgres && path == "/jobs" {
            report.below("first page of the job list, p99, PostgreSQL (ms)", p99, TARGET_MS);
        }
    }
    stack.shut_down().await
}

async fn sweeps(report: &mut Report, database: &DatabaseConnection) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..SWEEPS {
        let mut found = 0;
        for partition in 0..PARTITIONS {
            let begun = Instant::now();
            found += sweep(database, partition).await?.len() as u64;
            times.push(begun.elapsed());
        }
        ensure!(found == SILENT, "{found} silent jobs were found");
    }
    let what = "the silent jobs of a partition";
    show(report, what, times, [("p50", 0.5), ("the worst", 1.0)]).map(drop)
}

/// Shows these parts of the times, and returns the last one, in milliseconds.
fn show(
    report: &mut Report,
    what: &str,
    mut times: Vec<Duration>,
    parts: [(&str, f64); 2],
) -> Result<f64> {
    times.sort();
    let mut ms = 0.0;
    for (name, part) in parts {
        ms = quantile(&times, part).context("nothing was measured")?.as_secs_f64() * 1e3;
        report.figure(format!("{what}, {name}"), ms, "ms");
    }
    Ok(ms)
}

/// The address of a page that half of the finished jobs are before.
async fn deep(client: &mut Client, finished: u64) -> Result<String> {
    let middle = format!("/api/v1/jobs/finished-{}", finished / 2);
    let answer = client.send(Method::GET, &middle, &[], Bytes::new()).await?;
    let job: Value = serde_json::from_slice(&answer.body)?;
    let created = job["created_at"].as_str().context("the job in the middle has no time")?;
    let micros = chrono::DateTime::parse_from_rfc3339(created)?.timestamp_micros();
    Ok(format!("/api/v1/jobs?after={micros}-{}", hex::encode("finished")))
}
