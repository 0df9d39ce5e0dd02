//! `worker jobs`: tables for people, JSON for programs.

use std::io::{self, Write};

use anyhow::{Context, bail};
use chrono::TimeDelta;
use shared::shutdown;

use crate::config::jobs::{JobsCommand, ListJobs};
use crate::entity::job::{Failure, Model as Job, Status};
use crate::ops::print::{Table, json, printable, text, time};
use crate::ops::{Output, open, watch};
use crate::store::connection::Purpose;
use crate::store::dead_letters::{self, LetterFilter};
use crate::store::read::{self, JobFilter, JobKey};

/// How many dead letters of a job are counted.
const LETTERS: u64 = 10_000;

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database can't be read, or there is no such job.
pub async fn run(command: JobsCommand, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    match command {
        JobsCommand::List(args) => {
            let config = args.check()?;
            let jobs = found(&config).await?;
            if config.json { json(out, &jobs) } else { Ok(list(out, &jobs)?) }
        }
        JobsCommand::Watch(args) => {
            let (config, shutdown) = (args.check()?, shutdown::on_signal()?);
            watch::run(config, shutdown, out).await
        }
        JobsCommand::Show { id, read } => {
            let db = open(&read.check()?, Purpose::Read).await?;
            let of_job = LetterFilter { job_id: Some(id.clone()), ..LetterFilter::default() };
            let dead_letters = dead_letters::list(&db, &of_job, None, LETTERS).await?;
            let Some(job) = read::job(&db, &id).await? else {
                if dead_letters.is_empty() {
                    bail!("there is no job {id:?}");
                }
                bail!(
                    "the job {id:?} has no row yet: its {} callback(s) wait as dead letters",
                    dead_letters.len()
                );
            };
            let events = read::events(&db, &id).await?;
            if read.json {
                return json(
                    out,
                    &serde_json::json!({
                        "job": job, "events": events, "dead_letters": dead_letters.len(),
                    }),
                );
            }
            show(out, &job)?;
            let mut table =
                Table::new(["TIME", "EVENT", "CHANGE", "OUTCOME", "REASON", "RUN", "ERROR"]);
            for event in &events {
                let status = |status: Option<Status>| status.map_or("-", Status::as_str);
                let row = table.row([
                    time(Some(event.received_at)),
                    event.kind.as_str().to_owned(),
                    format!("{} → {}", status(event.from_status), status(event.to_status)),
                    event.outcome.as_str().to_owned(),
                    text(event.reason.as_deref()),
                    run_of(event.workflow_run_id.as_deref(), event.run_attempt),
                    failure(event.failed_step.as_deref(), event.error.as_deref()),
                ]);
                if let Some(status) = event.to_status {
                    row.paint(2, status);
                }
            }
            writeln!(out)?;
            table.print(out)?;
            if !dead_letters.is_empty() {
                writeln!(out, "\n{} callback(s) wait as dead letters", dead_letters.len())?;
            }
            Ok(())
        }
    }
}

/// The jobs that are asked for, the newest first.
async fn found(config: &ListJobs) -> anyhow::Result<Vec<Job>> {
    let db = open(&config.database, Purpose::Read).await?;
    let after = match &config.after {
        None => None,
        Some(id) => match read::job(&db, id).await? {
            Some(job) => Some(JobKey::from(&job)),
            None => bail!("there is no job {id:?} to go on from"),
        },
    };
    let created_from = match config.since {
        None => None,
        Some(since) => {
            let since = TimeDelta::from_std(since).context("--since is too long")?;
            Some(read::now(&db).await? - since)
        }
    };
    let search = config.search.clone();
    let filter = JobFilter { status: config.status, search, created_from, created_before: None };
    Ok(read::jobs(&db, &filter, after.as_ref(), config.limit).await?)
}

fn list(out: &mut Output<impl Write>, jobs: &[Job]) -> io::Result<()> {
    let mut table =
        Table::new(["JOB", "STATUS", "RUN", "CREATED", "HEARTBEAT", "UPDATED", "ERROR"]);
    for job in jobs {
        let row = table.row([
            job.id.clone(),
            status(job),
            run_of(job.workflow_run_id.as_deref(), job.run_attempt),
            time(Some(job.created_at)),
            time(job.last_heartbeat_at),
            time(Some(job.updated_at)),
            failure(job.failed_step.as_deref(), job.error.as_deref()),
        ]);
        row.paint(1, job.status);
    }
    table.print(out)
}

pub(super) fn show(out: &mut Output<impl Write>, job: &Job) -> io::Result<()> {
    for (name, value) in [
        ("job", job.id.clone()),
        ("status", status(job)),
        ("error", failure(job.failed_step.as_deref(), job.error.as_deref())),
        ("run", run_of(job.workflow_run_id.as_deref(), job.run_attempt)),
        ("agent", text(job.agent_id.as_deref())),
        ("region", text(job.region.as_deref())),
        ("heartbeats", format!("{}, last {}", job.heartbeat_count, time(job.last_heartbeat_at))),
        (
            "timeout",
            job.heartbeat_timeout_s.map_or("-".into(), |timeout_s| format!("{timeout_s} s")),
        ),
        ("queued", time(job.queued_at)),
        ("started", time(job.started_at)),
        ("finished", time(job.finished_at)),
    ] {
        let colour = (name == "status").then(|| job.status.into());
        let value = out.paint(&printable(&value), colour);
        writeln!(out, "{name:<11} {value}")?;
    }
    Ok(())
}

pub(super) fn status(job: &Job) -> String {
    let presumed = if job.failure == Some(Failure::Presumed) { " (presumed)" } else { "" };
    format!("{}{presumed}", job.status.as_str())
}

pub(super) fn run_of(id: Option<&str>, attempt: Option<i32>) -> String {
    match (id, attempt) {
        (None, _) => "-".into(),
        (Some(id), None) => id.to_owned(),
        (Some(id), Some(attempt)) => format!("{id} #{attempt}"),
    }
}

pub(super) fn failure(step: Option<&str>, error: Option<&str>) -> String {
    match (step, error) {
        (None, None) => "-".into(),
        (Some(step), None) => format!("in {step}"),
        (None, Some(error)) => error.to_owned(),
        (Some(step), Some(error)) => format!("in {step}: {error}"),
    }
}
