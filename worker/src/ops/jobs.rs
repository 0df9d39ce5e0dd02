//! `worker jobs list` and `worker jobs show`: tables for people, JSON for programs.

use std::io::{self, Write};

use anyhow::bail;

use crate::config::jobs::JobsCommand;
use crate::entity::job::{Failure, Model as Job};
use crate::ops::open;
use crate::ops::print::{Table, json, printable, text, time, word};
use crate::store::connection::Purpose;
use crate::store::dead_letters::{self, LetterFilter};
use crate::store::read::{self, JobFilter};

/// How many dead letters of a job are counted.
const LETTERS: u64 = 10_000;

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database can't be read, or there is no such job.
pub async fn run(command: JobsCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        JobsCommand::List(args) => {
            let config = args.check()?;
            let db = open(&config.database, Purpose::Read).await?;
            let filter = JobFilter { status: config.status, ..JobFilter::default() };
            let jobs = read::jobs(&db, &filter, None, config.limit).await?;
            if config.json { json(out, &jobs) } else { list(out, &jobs) }
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
                table.row([
                    time(Some(event.received_at)),
                    word(&event.kind),
                    format!(
                        "{} → {}",
                        event.from_status.as_ref().map_or("-".into(), word),
                        event.to_status.as_ref().map_or("-".into(), word)
                    ),
                    word(&event.outcome),
                    text(event.reason.as_deref()),
                    run_of(event.workflow_run_id.as_deref(), event.run_attempt),
                    failure(event.failed_step.as_deref(), event.error.as_deref()),
                ]);
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

fn list(out: &mut impl Write, jobs: &[Job]) -> anyhow::Result<()> {
    let mut table = Table::new(["JOB", "STATUS", "RUN", "HEARTBEAT", "UPDATED", "ERROR"]);
    for job in jobs {
        table.row([
            job.id.clone(),
            status(job),
            run_of(job.workflow_run_id.as_deref(), job.run_attempt),
            time(job.last_heartbeat_at),
            time(Some(job.updated_at)),
            failure(job.failed_step.as_deref(), job.error.as_deref()),
        ]);
    }
    table.print(out)?;
    Ok(())
}

pub(super) fn show(out: &mut impl Write, job: &Job) -> io::Result<()> {
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
        writeln!(out, "{name:<11} {}", printable(&value))?;
    }
    Ok(())
}

fn status(job: &Job) -> String {
    let presumed = if job.failure == Some(Failure::Presumed) { " (presumed)" } else { "" };
    word(&job.status) + presumed
}

fn run_of(id: Option<&str>, attempt: Option<i32>) -> String {
    match (id, attempt) {
        (None, _) => "-".into(),
        (Some(id), None) => id.to_owned(),
        (Some(id), Some(attempt)) => format!("{id} #{attempt}"),
    }
}

fn failure(step: Option<&str>, error: Option<&str>) -> String {
    match (step, error) {
        (None, None) => "-".into(),
        (Some(step), None) => format!("in {step}"),
        (None, Some(error)) => error.to_owned(),
        (Some(step), Some(error)) => format!("in {step}: {error}"),
    }
}
