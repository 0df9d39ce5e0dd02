//! How long the console and its API take to show jobs among a million.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use e2e::http::Client;
use e2e::http_load::quantile;
use e2e::silence_fixture::{PARTITIONS, SilenceFixture};
use e2e::stack::{Db, Stack};
use hyper::Method;
use serde_json::Value;

use crate::report::Report;

const ROUNDS: usize = 400;
/// A search that finds nothing reads all jobs.
const SEARCHES: usize = 5;
const TARGET_MS: f64 = 50.0;

/// Measures it on a database, with a worker that has nothing else to do.
pub(crate) async fn run(report: &mut Report, db: Db, jobs: u64) -> Result<()> {
    report.part(format!("list, {}", db.name()), &format!("shows jobs among {jobs}"));
    let partitions = u16::try_from(PARTITIONS)?;
    let mut stack = Stack::builder().db(db).partitions(partitions).start().await?;
    SilenceFixture { finished: jobs, ..SilenceFixture::default() }.fill(&stack.db().await?).await?;
    let mut client = Client::new(stack.worker.ops);
    let deep = deep(&mut client, jobs).await?;
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
        times.sort();
        let ms = |part| -> Result<f64> {
            let time = quantile(&times, part).context("nothing was measured")?;
            Ok(time.as_secs_f64() * 1e3)
        };
        report.figure(format!("{what}, p50"), ms(0.5)?, "ms");
        report.figure(format!("{what}, p99"), ms(0.99)?, "ms");
        if db == Db::Postgres && path == "/jobs" {
            report.below("first page of the job list, p99, PostgreSQL (ms)", ms(0.99)?, TARGET_MS);
        }
    }
    stack.shut_down().await
}

/// The address of a page that half of the jobs are before.
async fn deep(client: &mut Client, jobs: u64) -> Result<String> {
    let middle = format!("/api/v1/jobs/finished-{}", jobs / 2);
    let answer = client.send(Method::GET, &middle, &[], Bytes::new()).await?;
    let job: Value = serde_json::from_slice(&answer.body)?;
    let created = job["created_at"].as_str().context("the job in the middle has no time")?;
    let micros = chrono::DateTime::parse_from_rfc3339(created)?.timestamp_micros();
    Ok(format!("/api/v1/jobs?after={micros}-{}", hex::encode("finished")))
}
