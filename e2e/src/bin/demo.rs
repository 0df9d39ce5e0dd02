//! `make demo`: two real workflow runs, one of which fails on purpose, from their signed callbacks
//! to the rows in the database.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Local};
use e2e::act::{Act, Inputs};
use e2e::stack::{Stack, random_secret};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(300);
/// How long a row may take to follow the end of its workflow.
const ROW_LIMIT: Duration = Duration::from_secs(15);

const SUCCEEDS: &str = "demo-1";
const FAILS: &str = "demo-2";
const REASON: &str = "no capacity left in this region";

#[tokio::main]
async fn main() -> ExitCode {
    let dir = match tempfile::Builder::new().prefix("ackline-demo-").tempdir() {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("The demo has no directory to run in: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(LIMIT, demo(dir.path())) => ended,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    let problem = match ended {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("it did not end within {} seconds", LIMIT.as_secs()),
    };
    let logs = dir.keep().join("logs");
    eprintln!("\nThe demo failed: {problem}\nThe logs of every part are in {}", logs.display());
    ExitCode::FAILURE
}

async fn demo(dir: &Path) -> Result<()> {
    let paint = Paint::new();
    println!("{}", paint.bold("Ackline: two workflow runs, from their callbacks to their rows"));
    println!("Starting nats-server, worker (on SQLite) and ingress …");
    let started = Instant::now();
    let mut stack = Stack::builder().dir(dir).secret(random_secret()?).start().await?;
    println!("Ready after {:.1} s; callbacks go to {}\n", seconds(started), stack.callback_url());

    let mut jobs = Vec::new();
    for (id, agent, region, fail) in [
        (SUCCEEDS, "agent-a", "eu-central-1", None),
        (FAILS, "agent-b", "us-east-2", Some(REASON.to_owned())),
    ] {
        let send =
            ["send", "--status", "queued", "--job-id", id, "--agent-id", agent, "--region", region];
        stack.ackline(&send).await.with_context(|| format!("can't queue {id}"))?;
        let mut inputs = Inputs::new(id, &stack.callback_url(), stack.secret());
        inputs.agent_id = agent.to_owned();
        inputs.region = region.to_owned();
        inputs.fail = fail;
        inputs.provision_seconds = 3;
        let run = Act::start(dir, &format!("workflow-{id}"), &inputs)?;
        jobs.push(Watched { id, run, row: Value::Null, seen: 0, heartbeats: 0 });
    }

    let mut workflows_ended = None;
    loop {
        let mut lines = Vec::new();
        for job in &mut jobs {
            lines.extend(job.look(&stack, &paint).await);
        }
        lines.sort();
        for (at, job, line) in lines {
            println!("{}  {job}  {line}", paint.dim(&at));
        }
        if workflows_ended.is_none() && jobs.iter().all(|job| !job.run.process.is_running()) {
            workflows_ended = Some(Instant::now());
        }
        // The rows may be a moment behind the workflows, and are looked at once more.
        if let Some(ended) = workflows_ended
            && (jobs.iter().all(Watched::is_finished) || ended.elapsed() > ROW_LIMIT)
        {
            break;
        }
        for process in [&stack.ingress.process, &stack.worker.process, &stack.nats.node(0).process]
        {
            ensure!(
                process.is_running(),
                "{} has ended\n{}",
                process.name(),
                process.log().tail(10)
            );
        }
        tokio::time::sleep(POLL).await;
    }

    println!("\n{}", paint.bold("job     status   heartbeats  took    failed step  error"));
    for job in &jobs {
        println!(
            "{:<7} {} {:<11} {:<7} {:<12} {}",
            job.id,
            paint.status(&format!("{:<8}", job.text("status"))),
            job.heartbeats,
            job.took(),
            job.text("failed_step"),
            job.text("error")
        );
    }
    for job in jobs {
        job.check().await?;
    }
    stack.shut_down().await?;
    println!("\nBoth jobs ended as they should.");
    Ok(())
}

/// A job whose workflow runs, and what has been printed of it.
struct Watched {
    id: &'static str,
    run: Act,
    row: Value,
    seen: usize,
    heartbeats: i64,
}

impl Watched {
    /// What is new: when, whose, and what.
    async fn look(&mut self, stack: &Stack, paint: &Paint) -> Vec<(String, &'static str, String)> {
        // Until its first callback is committed there is no such job.
        let Ok(mut shown) = stack.ackline_json(&["jobs", "show", self.id, "--json"]).await else {
            return Vec::new();
        };
        self.row = shown["job"].take();
        let heartbeats = self.row["heartbeat_count"].as_i64().unwrap_or_default();
        let events = shown["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut lines = Vec::new();
        for event in events.iter().skip(self.seen) {
            let at = event["received_at"].as_str();
            lines.push((clock(at), self.id, describe(event, paint)));
        }
        if heartbeats > self.heartbeats {
            let at = self.row["last_heartbeat_at"].as_str();
            lines.push((clock(at), self.id, paint.dim(&format!("heartbeat {heartbeats}"))));
        }
        self.seen = events.len();
        self.heartbeats = heartbeats;
        lines
    }

    fn text(&self, column: &str) -> &str {
        self.row[column].as_str().unwrap_or_default()
    }

    fn is_finished(&self) -> bool {
        matches!(self.text("status"), "running" | "failed")
    }

    fn took(&self) -> String {
        let time = |column| DateTime::parse_from_rfc3339(self.text(column)).ok();
        match time("queued_at").zip(time("finished_at")) {
            Some((queued, finished)) => {
                format!("{:.1} s", (finished - queued).as_seconds_f64())
            }
            None => String::new(),
        }
    }

    /// Whether the run and the row ended as they should.
    async fn check(self) -> Result<()> {
        let (id, row) = (self.id, self.row.clone());
        let fails = id == FAILS;
        let outcome = self.run.finish(ROW_LIMIT).await?;
        ensure!(outcome.success != fails, "the workflow of {id} ended unlike it should");
        let text = |column: &str| row[column].as_str().unwrap_or_default();
        let is_right = if fails {
            text("status") == "failed"
                && text("failed_step") == "provision"
                && text("error").contains(REASON)
        } else {
            text("status") == "running" && row["failed_step"].is_null() && row["error"].is_null()
        };
        if !is_right || self.heartbeats == 0 {
            bail!("the row of {id} is not as it should be: {row}");
        }
        Ok(())
    }
}

/// An event as a line: what it changed, and why.
fn describe(event: &Value, paint: &Paint) -> String {
    let text = |column: &str| event[column].as_str().unwrap_or_default();
    let (from, to) = (text("from_status"), text("to_status"));
    let mut line = match (from, to) {
        ("", to) => format!("→ {}", paint.status(to)),
        (from, to) if from == to => paint.status(to),
        (from, to) => format!("{from} → {}", paint.status(to)),
    };
    let mut notes = Vec::new();
    if text("outcome") != "applied" {
        notes.push(text("outcome").to_owned());
    }
    notes.extend([text("reason")].map(str::to_owned));
    if !text("failed_step").is_empty() {
        notes.push(format!("in the step {}", text("failed_step")));
    }
    notes.push(text("error").to_owned());
    notes.retain(|note| !note.is_empty());
    if !notes.is_empty() {
        line = format!("{line}  {}", notes.join(", "));
    }
    line
}

fn clock(at: Option<&str>) -> String {
    at.and_then(|at| DateTime::parse_from_rfc3339(at).ok())
        .map(|at| at.with_timezone(&Local).format("%H:%M:%S%.3f").to_string())
        .unwrap_or_else(|| " ".repeat("00:00:00.000".len()))
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// Colours, where somebody sees them.
struct Paint(bool);

impl Paint {
    fn new() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }

    fn status(&self, status: &str) -> String {
        match status.trim() {
            "running" => self.with("32", status),
            "failed" => self.with("31", status),
            "provisioning" => self.with("36", status),
            _ => status.to_owned(),
        }
    }
}
