//! `worker jobs list` and `worker jobs show`: tables for people, JSON for programs.

use std::io::{self, Write};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::DatabaseConnection;

use crate::config::{JobsCommand, check_list};
use crate::entity::job::{Failure, Model as Job};
use crate::store::connection::{self, DatabaseUrl, Purpose};
use crate::store::{read, schema};

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database can't be read, or there is no such job.
pub async fn run(command: JobsCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        JobsCommand::List { status, limit, read } => {
            let (database, status, limit) = check_list(status.as_deref(), &limit, &read)?;
            let jobs = read::jobs(&open(&database).await?, status, limit).await?;
            if read.json { json(out, &jobs) } else { list(out, &jobs) }
        }
        JobsCommand::Show { id, read } => {
            let db = open(&read.check()?).await?;
            let dead_letters = read::dead_letters(&db, &id).await?;
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

async fn open(database: &DatabaseUrl) -> anyhow::Result<DatabaseConnection> {
    let db = connection::connect(database, Purpose::Read)
        .await
        .context("the database can't be reached")?;
    schema::check(&db).await?;
    Ok(db)
}

fn json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
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

fn show(out: &mut impl Write, job: &Job) -> io::Result<()> {
    for (name, value) in [
        ("job", job.id.clone()),
        ("status", status(job)),
        ("error", failure(job.failed_step.as_deref(), job.error.as_deref())),
        ("run", run_of(job.workflow_run_id.as_deref(), job.run_attempt)),
        ("agent", text(job.agent_id.as_deref())),
        ("region", text(job.region.as_deref())),
        ("heartbeats", format!("{}, last {}", job.heartbeat_count, time(job.last_heartbeat_at))),
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

fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "-".into(),
    }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

fn time(value: Option<DateTime<Utc>>) -> String {
    value.map_or("-".into(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
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

/// What senders wrote must not steer the terminal.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// Left-aligned columns.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(Into::into).to_vec()] }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            writeln!(out, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}
