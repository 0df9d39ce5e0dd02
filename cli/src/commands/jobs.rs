//! `ackline jobs`: tables for people, JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use shared::settings::duration;
use worker::entity::job::{Model as Job, Status};
use worker::store::dead_letters::{self, LetterFilter};
use worker::store::read::{self, JobFilter, JobKey};

use super::watch::{self, Watch};
use super::{ListArgs, ReadArgs};
use crate::output::Output;
use crate::output::job::{failure, run_of, status};
use crate::output::print::{Table, json, printable, text, time};

/// `ackline jobs`.
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List jobs, newest first (by when they were first heard of).
    List(List),
    /// Show one job with its timeline.
    Show {
        /// The job's id.
        id: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Watch jobs live. With an ID, until that job has finished: exits 0 if it is running, 1 if it
    /// failed, and 3 if the outcome is not known. Without one, all jobs, until Ctrl-C.
    Watch(Watch),
}

/// `ackline jobs list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only jobs in this status: queued, provisioning, running or failed.
    #[arg(long)]
    status: Option<Status>,
    /// Only jobs whose id contains this, in any case, or whose run id equals it.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only jobs first heard of within this time, such as 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Only jobs after this one, such as the last one of the previous list.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// What lists share.
    #[command(flatten)]
    list: ListArgs,
}

/// How many dead letters of a job are counted.
const LETTERS: u64 = 10_000;

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database cannot be read, or there is no such job.
pub async fn run(command: &Jobs, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    match command {
        Jobs::List(args) => {
            let jobs = found(args).await?;
            if args.list.read.json { json(out, &jobs) } else { Ok(list(out, &jobs)?) }
        }
        Jobs::Watch(args) => watch::run(args, out).await,
        Jobs::Show { id, read } => {
            let db = read.open().await?;
            let of_job = LetterFilter { job_id: Some(id.clone()), ..LetterFilter::default() };
            let dead_letters = dead_letters::list(&db, &of_job, None, LETTERS).await?;
            let Some(job) = read::job(&db, id).await? else {
                if dead_letters.is_empty() {
                    bail!("there is no job {id:?}: see `ackline jobs list`");
                }
                bail!(
                    "the job {id:?} has no row yet: its {} callback(s) wait as dead letters",
                    dead_letters.len()
                );
            };
            let events = read::events(&db, id).await?;
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

/// The selected jobs, newest first.
async fn found(args: &List) -> anyhow::Result<Vec<Job>> {
    let db = args.list.read.open().await?;
    let mut after = match &args.after {
        None => None,
        Some(id) => match read::job(&db, id).await? {
            Some(job) => Some(JobKey::from(&job)),
            None => bail!("there is no job {id:?} to go on from"),
        },
    };
    let created_from = match args.since {
        None => None,
        Some(since) => {
            let since = TimeDelta::from_std(since).context("--since is too long")?;
            Some(read::now(&db).await? - since)
        }
    };
    let search = args.search.clone();
    let filter = JobFilter { status: args.status, search, created_from, created_before: None };
    let mut jobs = Vec::new();
    loop {
        let limit = args.list.limit - jobs.len() as u64;
        let page = read::job_page(&db, &filter, after.as_ref(), limit, read::SEARCHED).await?;
        jobs.extend(page.jobs);
        after = page.next;
        // A page of a search may be incomplete, and is not the last one then.
        if after.is_none() || jobs.len() as u64 >= args.list.limit {
            return Ok(jobs);
        }
    }
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
