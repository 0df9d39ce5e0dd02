//! `make bench`: how fast things are on a real broker and real databases, each beside what limits it
//! and beside the plain way to do it, in one run. Only the ratios say something on another machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

mod accept;
mod apply;
mod backlog;
mod callbacks;
mod growth;
mod idle;
mod latency;
mod list;
mod partitions;
mod report;
mod rounds;
mod streams;
mod sweep;
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use e2e::stack::Db;

use crate::report::Report;
use crate::yardstick::Yardstick;

/// The parts, in their order.
const PARTS: [&str; 9] =
    ["accept", "partitions", "apply", "latency", "backlog", "growth", "idle", "sweep", "list"];

/// Callbacks that are applied of each kind, at the most.
const APPLIED: usize = 240_000;

/// Measures Ackline beside what limits it.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which parts, separated by commas; all if there are none.
    #[arg(long, env = "ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// Callbacks in the backlog.
    #[arg(long, env = "EVENTS", default_value_t = 1_000_000)]
    events: usize,
    /// Jobs among which ten silent ones are looked for, and in the list.
    #[arg(long, env = "JOBS", default_value_t = 1_000_000)]
    jobs: u64,
    /// How long one round of a load takes, in seconds.
    #[arg(long, env = "ROUND", default_value_t = 5.0)]
    round: f64,
    /// How long nothing happens, in seconds.
    #[arg(long, env = "IDLE", default_value_t = 60)]
    idle: u64,
    /// Where the figures are written to.
    #[arg(long, env = "JSON", default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Is one of the servers to compare with.
    #[command(hide = true)]
    Serve { name: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    if let Some(Command::Serve { name }) = &args.command {
        return yardstick::serve(Yardstick::parse(name)?).await;
    }
    let only: Vec<_> =
        args.only.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    for part in &only {
        ensure!(PARTS.contains(part), "ONLY must be of {}", PARTS.join(","));
    }
    let round = Duration::try_from_secs_f64(args.round).context("ROUND must be in seconds")?;
    // Not only after an hour.
    if let Some(dir) = args.json.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    let mut report = Report::new();
    for part in PARTS {
        if !only.is_empty() && !only.contains(&part) {
            continue;
        }
        match part {
            "accept" => accept::run(&mut report, round).await?,
            "apply" => {
                for db in Db::ALL {
                    apply::run(&mut report, db, args.events.min(APPLIED), round).await?;
                }
            }
            "partitions" => partitions::run(&mut report, round).await?,
            "latency" => latency::run(&mut report, round).await?,
            "backlog" => {
                for db in Db::ALL {
                    backlog::run(&mut report, db, args.events).await?;
                }
            }
            "growth" => {
                let events = args.events.min(APPLIED);
                growth::run(&mut report, args.jobs, events, round).await?;
            }
            "idle" => idle::run(&mut report, Duration::from_secs(args.idle)).await?,
            "list" => {
                for db in Db::ALL {
                    list::run(&mut report, db, args.jobs).await?;
                }
            }
            _ => {
                for db in Db::ALL {
                    sweep::run(&mut report, db, args.jobs).await?;
                }
            }
        }
    }
    report.end(&args.json)
}
