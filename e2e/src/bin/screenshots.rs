//! `make screenshots`: the console's pictures in docs/images, of a real Ackline with some real jobs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::browser;
use e2e::stack::{Db, Stack};
use e2e::tools::workspace;
use serde_json::{Value, json};

/// How long callbacks flow before the pictures are taken: enough for the charts to show something.
const FLOW: Duration = Duration::from_secs(150);
const BEAT: Duration = Duration::from_secs(3);
const REGIONS: [&str; 3] = ["eu-central-1", "us-east-2", "ap-south-1"];
const ERRORS: [(&str, &str); 3] = [
    ("allocate", "no capacity left for gpu-large in this zone; tried 3 zones, 12 attempts"),
    ("boot", "the machine did not answer within 300 s"),
    ("register", "agent token was refused: 403 Forbidden"),
];

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = take() => ended,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("screenshots: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn take() -> Result<()> {
    println!("Letting callbacks flow for {} s …", FLOW.as_secs());
    let stack = Stack::builder()
        .db(Db::Postgres)
        .env("REPOSITORY_URL", "https://github.com/example/fleet")
        .env("WORKER_ID", "worker-a")
        .env("HEARTBEAT_TIMEOUT", "60s")
        .start()
        .await?;
    // A second worker knows where ingress listens.
    let ops = stack.ingress.ops.to_string();
    let second = [("WORKER_ID", "worker-b"), ("INGRESS_OPS", ops.as_str())];
    let second = stack.start_worker_with(&second, &[]).await?;

    let mut flow = Flow { stack: &stack, begun: 0 };
    let begun = Instant::now();
    while begun.elapsed() < FLOW {
        flow.go_on().await?;
        tokio::time::sleep(BEAT).await;
    }
    let parameters = json!({
        "base": format!("http://{}", second.ops),
        "folder": workspace().join("docs/images"),
        "failed": name(4),
        "run": name(flow.begun - 4),
    });
    browser::run(stack.dir(), "screenshots.mjs", &parameters).await?;
    println!("The pictures are in docs/images.");
    Ok(())
}

/// The name of the nth job.
fn name(n: u64) -> String {
    format!("build-agent-{}", 4180 + n)
}

/// Jobs, each of which is a step further with every beat.
struct Flow<'a> {
    stack: &'a Stack,
    begun: u64,
}

impl Flow<'_> {
    async fn go_on(&mut self) -> Result<()> {
        self.begun += 1;
        for n in 1..=self.begun {
            let age = self.begun - n;
            let run = json!({ "workflow_run_id": 18_234_500_000 + n, "run_attempt": 1 });
            let said = match age {
                0 => {
                    let region = REGIONS[usize::try_from(n)? % REGIONS.len()];
                    json!({ "status": "queued", "agent_id": format!("agent-{n}"), "region": region })
                }
                1 => with(run, json!({ "status": "provisioning" })),
                // Every seventh falls silent, every fourth fails.
                _ if n % 7 == 0 => continue,
                6 if n % 4 == 0 => {
                    let (step, error) = ERRORS[usize::try_from(n / 4)? % ERRORS.len()];
                    with(run, json!({ "status": "failed", "failed_step": step, "error": error }))
                }
                8 if n % 4 != 0 => with(run, json!({ "status": "running" })),
                2..6 => with(run, json!({ "type": "heartbeat" })),
                6..8 if n % 4 != 0 => with(run, json!({ "type": "heartbeat" })),
                _ => continue,
            };
            let body = with(said, json!({ "job_id": name(n) })).to_string();
            let answer = self.stack.post(body).await?;
            ensure!(answer.status == 200, "{}", answer.text());
        }
        if self.begun.is_multiple_of(9) {
            let forged = [("x-signature", "00")];
            self.stack.ingress.post(&forged, "{}").await?;
        }
        Ok(())
    }
}

fn with(mut one: Value, more: Value) -> Value {
    if let (Value::Object(one), Value::Object(more)) = (&mut one, more) {
        one.extend(more);
    }
    one
}
