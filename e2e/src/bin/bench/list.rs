//! How long it takes to count and to show jobs among a million, and to find ten silent ones.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use bytes::Bytes;
use chrono::TimeDelta;
use e2e::http::Client;
use e2e::http_load::quantile;
use e2e::silence_fixture::{PARTITIONS, SilenceFixture, sweep};
use e2e::stack::{Db, Stack};
use hyper::Method;
use sea_orm::DatabaseConnection;
use serde_json::Value;
use worker::entity::job::Status;
use worker::store::connection::{DatabaseUrl, Purpose, connect};
use worker::store::observe::{self, Reach};
use worker::store::{liveness, prune, read};

use crate::report::Report;

const ROUNDS: usize = 400;
/// A page of a search that finds nothing looks at up to half a million jobs.
const SEARCHES: usize = 5;
const SWEEPS: usize = 50;
const SILENT: u64 = 10;
/// What `ackline prune` examines together.
const PAGE: u64 = 500;
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
        finished: jobs / 10 * 9,
        alive: jobs / 20,
        patient: jobs / 20 - SILENT,
        silent: SILENT,
    };
    fixture.fill(&database).await?;
    let url: DatabaseUrl = stack.database_url().parse().map_err(Error::msg)?;
    let own = connect(&url, Purpose::Own(Duration::from_secs(10))).await?;
    sweeps(report, &own).await?;
    looks(report, &connect(&url, Purpose::Look).await?).await?;
    prunes(report, &connect(&url, Purpose::Change).await?).await?;

    let mut client = Client::new(stack.worker.ops);
    let deep = deep(&mut client, fixture.finished).await?;
    for (what, path, rounds) in [
        ("first page of the console", "/jobs", ROUNDS),
        ("first page of the API", "/api/v1/jobs", ROUNDS),
        ("first page of one status", "/api/v1/jobs?status=running", ROUNDS),
        ("a page in the middle", &deep, ROUNDS),
        ("one job", "/job?id=finished-7", ROUNDS),
        ("a page of a search that finds nothing", "/api/v1/jobs?search=nothing", SEARCHES),
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

/// What a worker counts, and the jobs that it names.
async fn looks(report: &mut Report, database: &DatabaseConnection) -> Result<()> {
    let (partitions, reach) = (usize::try_from(PARTITIONS)?, Reach::USUAL);
    let (mut counts, mut letters) = (Vec::new(), Vec::new());
    for _ in 0..SWEEPS {
        let begun = Instant::now();
        observe::jobs(database, partitions, reach).await?;
        observe::quietest(database, partitions, reach, 5).await?;
        counts.push(begun.elapsed());
        let begun = Instant::now();
        observe::dead_letters(database, partitions, reach).await?;
        letters.push(begun.elapsed());
    }
    let parts = [("p50", 0.5), ("the worst", 1.0)];
    show(report, "a count of all jobs", counts, parts)?;
    show(report, "a count of the dead letters", letters, parts).map(drop)
}

/// A page of old jobs, and the last one, which is empty.
async fn prunes(report: &mut Report, database: &DatabaseConnection) -> Result<()> {
    let now = read::now(database).await?;
    for (what, age) in [("a page", TimeDelta::minutes(10)), ("the last page", TimeDelta::days(999))]
    {
        let mut times = Vec::new();
        for partition in 0..PARTITIONS {
            let begun = Instant::now();
            let part = (partition, Status::Running);
            let found = prune::candidates(database, part, now - age, None, PAGE).await?;
            times.push(begun.elapsed());
            ensure!(age > TimeDelta::days(1) || !found.is_empty(), "no job is old");
        }
        let parts = [("p50", 0.5), ("the worst", 1.0)];
        show(report, &format!("{what} of what prune examines"), times, parts)?;
    }
    Ok(())
}

async fn sweeps(report: &mut Report, database: &DatabaseConnection) -> Result<()> {
    let (mut times, mut soonest) = (Vec::new(), Vec::new());
    for _ in 0..SWEEPS {
        let mut found = 0;
        for partition in 0..PARTITIONS {
            let begun = Instant::now();
            found += sweep(database, partition).await?.len() as u64;
            times.push(begun.elapsed());
            let begun = Instant::now();
            liveness::soonest(database, partition).await?;
            soonest.push(begun.elapsed());
        }
        ensure!(found == SILENT, "{found} silent jobs were found");
    }
    let parts = [("p50", 0.5), ("the worst", 1.0)];
    show(report, "the silent jobs of a partition", times, parts)?;
    show(report, "when the next can be silent", soonest, parts).map(drop)
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
