//! `make bench`: how fast things are on a real broker and real databases, each beside what limits it
//! and beside the plain way to do it, in one run. Only the ratios say something on another machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

mod accept;
mod apply;
mod backlog;
mod callbacks;
mod idle;
mod latency;
mod list;
mod report;
mod rounds;
mod streams;
mod workers;
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use e2e::stack::Db;

use crate::report::Report;
use crate::yardstick::Yardstick;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    Accept,
    Partitions,
    Apply,
    Latency,
    Backlog,
    Idle,
    List,
    Workers,
}

/// Callbacks that are applied of each kind, at the most.
const APPLIED: usize = 240_000;

/// Measures Ackline beside what limits it.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which parts, separated by commas; all if there are none.
    #[arg(long, env = "ONLY", value_delimiter = ',')]
    only: Vec<Part>,
    /// Callbacks in the backlog.
    #[arg(long, env = "EVENTS", default_value_t = 1_000_000)]
    events: usize,
    /// Jobs in the list, ten of which are silent.
    #[arg(long, env = "JOBS", default_value_t = 1_000_000)]
    jobs: u64,
    /// How many workers run at once, at the most.
    #[arg(long, env = "WORKERS", default_value_t = 100)]
    workers: usize,
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
    Serve { server: Yardstick },
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
    if let Some(Command::Serve { server }) = args.command {
        return yardstick::serve(server).await;
    }
    let round = Duration::try_from_secs_f64(args.round).context("ROUND must be in seconds")?;
    // Not only after an hour.
    if let Some(dir) = args.json.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    let mut report = Report::new();
    let events = args.events.min(APPLIED);
    let parts = if args.only.is_empty() { Part::value_variants() } else { &args.only };
    for part in parts {
        match part {
            Part::Accept => accept::run(&mut report, round).await?,
            Part::Partitions => accept::partitions(&mut report, round).await?,
            Part::Latency => latency::run(&mut report, round).await?,
            Part::Idle => idle::run(&mut report, Duration::from_secs(args.idle)).await?,
            Part::Workers => {
                workers::run(&mut report, args.workers, Duration::from_secs(args.idle)).await?;
            }
            Part::Apply | Part::Backlog | Part::List => {
                for db in Db::ALL {
                    match part {
                        Part::Apply => apply::run(&mut report, db, events).await?,
                        Part::Backlog => backlog::run(&mut report, db, args.events).await?,
                        _ => list::run(&mut report, db, args.jobs).await?,
                    }
                }
            }
        }
    }
    report.end(&args.json)
}
