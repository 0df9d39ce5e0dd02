//! How fast a backlog is applied, audited and rebuilt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{SecondsFormat, TimeDelta, Utc};
use e2e::stack::{Db, Stack};
use e2e::usage::{memory_kib, peak_mib};
use sea_orm::ConnectionTrait;
use serde_json::Value;

use crate::accept::without_worker;
use crate::apply::apply_all;
use crate::callbacks;
use crate::report::Report;
use crate::streams::fill;

/// Queued, provisioning, seven heartbeats, running.
const PER_JOB: usize = 10;
/// Jobs of a partition that are under way at once.
const AT_ONCE: usize = 200;
const LIMIT: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(50);

/// Measures it on a database.
pub(crate) async fn run(report: &mut Report, db: Db, events: usize) -> Result<()> {
    report.part(format!("backlog, {}", db.name()), "callbacks of jobs with seven heartbeats each");
    let mut stack = without_worker(db, 1 << 30).await?;
    let jobs = (0..events / PER_JOB).map(|number| format!("job-{number}"));
    #[expect(clippy::disallowed_methods, reason = "senders have a clock")]
    let begun = Utc::now() - TimeDelta::hours(1);
    let body = move |id: &str, step: usize| {
        let sent_at = begun + TimeDelta::seconds(step as i64);
        callback(id, step, &sent_at.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    let expected = fill(&stack, jobs, AT_ONCE, PER_JOB, body).await?;
    let show = |report: &mut Report, step: &str, seconds: f64, peak_mib: f64| {
        report.figure(
            format!("{step}: {events} callbacks"),
            events as f64 / seconds,
            "callbacks/s",
        );
        report.figure(format!("{step}: most memory"), peak_mib, "MiB");
    };

    let database = stack.db().await?;
    let progress = apply_all(&mut stack, &database, expected).await?;
    let peak = peak_mib(stack.worker.process.pid())?;
    show(report, "apply", progress.total(), peak);
    let tenth = events as f64 / 10.0;
    let first = tenth / (progress.at(0.1) - progress.at(0.0));
    let last = tenth / (progress.at(1.0) - progress.at(0.9));
    report.figure("apply: the first tenth", first, "callbacks/s");
    report.figure("apply: the last tenth", last, "callbacks/s");
    if db == Db::Postgres {
        report.at_least("backlog, last tenth / first tenth", last / first, 0.9);
        report.below("worker during the catch-up, MiB", peak, 80.0);
    }

    let audit = stack.program("ackline")?.args(["audit", "--json"]);
    let (seconds, peak, found) = command(&stack, &audit).await?;
    let found: Value = serde_json::from_str(&found)?;
    ensure!(found["clean"] == true, "the audit is not clean: {found}");
    ensure!(found["counts"]["events"] == events, "not everything was audited: {found}");
    show(report, "audit, beside a live worker", seconds, peak);

    let url = match db {
        Db::Sqlite => stack.database_url().replace("ackline.db", "rebuilt.db"),
        Db::Postgres => {
            database.execute_unprepared("CREATE DATABASE rebuilt").await?;
            let (server, _) = stack.database_url().rsplit_once('/').context("no database")?;
            format!("{server}/rebuilt")
        }
    };
    let rebuild = stack.program("ackline")?.env("DATABASE_URL", url).args(["rebuild", "--json"]);
    let (seconds, peak, _) = command(&stack, &rebuild).await?;
    show(report, "rebuild", seconds, peak);
    stack.shut_down().await
}

/// Runs a command to its end; how long it took, the most memory that it was seen with in MiB, its
/// output.
async fn command(stack: &Stack, program: &e2e::process::Program) -> Result<(f64, f64, String)> {
    let begun = Instant::now();
    let mut process = stack.spawn(program)?;
    let mut peak = 0;
    while process.is_running() {
        peak = memory_kib(process.pid(), "VmHWM").unwrap_or(peak);
        ensure!(begun.elapsed() < LIMIT, "{} takes too long", process.name());
        tokio::time::sleep(POLL).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let status = process.wait(LIMIT).await?;
    let log = process.log();
    if !status.success() {
        bail!("{} failed: {status}\n{}", process.name(), log.tail(20));
    }
    Ok((seconds, peak as f64 / 1024.0, log.stdout()))
}

fn callback(job: &str, step: usize, sent_at: &str) -> String {
    let mut body = match step {
        0 => callbacks::status(job, step, "queued"),
        1 => callbacks::status(job, step, "provisioning"),
        step if step == PER_JOB - 1 => callbacks::status(job, step, "running"),
        _ => callbacks::heartbeat(job, step),
    };
    body["sent_at"] = sent_at.into();
    body.to_string()
}
