//! `make demo`: two real workflow runs, one of which fails on purpose, from their signed callbacks
//! to the rows in the database.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::act::{Act, Inputs};
use e2e::process::Process;
use e2e::stack::{Stack, random_secret};

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
    println!("Ackline: two workflow runs, from their callbacks to their rows");
    println!("Starting nats-server, worker (on SQLite) and ingress …");
    let mut stack = Stack::builder().dir(dir).secret(random_secret()?).start().await?;
    println!("Ready; callbacks go to {}\n\n$ ackline jobs watch", stack.callback_url());
    let mut watch = Watch {
        process: stack.spawn(&stack.program("ackline")?.args(["jobs", "watch"]))?,
        printed: 0,
    };

    let mut runs = Vec::new();
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
        runs.push((id, Act::start(dir, &format!("workflow-{id}"), &inputs)?));
    }
    while runs.iter().any(|(_, run)| run.process.is_running()) {
        for process in [&stack.ingress.process, &stack.worker.process, &stack.nats.node(0).process]
        {
            let (name, log) = (process.name(), process.log());
            ensure!(process.is_running(), "{name} has ended\n{}", log.tail(10));
        }
        tokio::time::sleep(POLL).await;
        watch.print();
    }
    for (id, run) in runs {
        check(&stack, &watch, id, run).await?;
    }
    watch.process.interrupt(ROW_LIMIT).await?;
    watch.print();
    println!("\n$ ackline jobs list\n{}", stack.ackline(&["jobs", "list"]).await?);
    stack.shut_down().await?;
    println!("Both jobs ended as they should.");
    Ok(())
}

/// A command that writes what happens to jobs.
struct Watch {
    process: Process,
    printed: usize,
}

impl Watch {
    fn print(&mut self) {
        let said = self.process.log().stdout();
        print!("{}", &said[self.printed..]);
        self.printed = said.len();
    }
}

/// Whether the run and the row ended as they should.
async fn check(stack: &Stack, watch: &Watch, id: &str, run: Act) -> Result<()> {
    let fails = id == FAILS;
    let outcome = run.finish(ROW_LIMIT).await?;
    ensure!(outcome.success != fails, "the workflow of {id} ended unlike it should");
    // The row may be a moment behind the workflow.
    let said = format!("{id}  provisioning → {}", if fails { "failed" } else { "running" });
    watch.process.wait_for_line(|line| line.contains(&said), ROW_LIMIT).await?;
    let row = stack.ackline_json(&["jobs", "show", id, "--json"]).await?["job"].take();
    let is_right = if fails {
        row["failed_step"] == "provision"
            && row["error"].as_str().is_some_and(|error| error.contains(REASON))
    } else {
        row["failed_step"].is_null() && row["error"].is_null()
    };
    ensure!(
        is_right && row["heartbeat_count"].as_i64() > Some(0),
        "the row of {id} is not as it should be: {row}"
    );
    Ok(())
}
