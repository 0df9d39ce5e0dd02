//! `make soak`: random faults of every part under load, and what came of them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use e2e::soak::{self, Fault};

/// Kills, pauses and replaces the parts of a running Ackline at random while callbacks arrive, and
/// checks that each accepted one has taken effect exactly once, in order.
#[derive(Debug, Parser)]
struct Args {
    /// How long, in seconds; every kind of fault comes at least once.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What determines the choices; a random one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { seconds, seed } = Args::parse();
    let seed = seed.unwrap_or_else(|| fastrand::u32(..).into());
    println!("seed {seed}");
    let dir = match tempfile::Builder::new().prefix("ackline-soak-").tempdir() {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("The soak has no directory to run in: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (faults, at_least) = (&Fault::ALL, Duration::from_secs(seconds));
    let outcome = tokio::select! {
        outcome = soak::run(dir.path(), seed, faults, at_least, |line| println!("{line}")) => outcome,
        // Every process ends with the future that has started it.
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match outcome {
        Ok(outcome) => {
            println!("\n{outcome}");
            if outcome.findings.is_empty() {
                return ExitCode::SUCCESS;
            }
        }
        Err(error) => eprintln!("\nThe soak failed: {error:#}"),
    }
    eprintln!("The logs of every part are in {}", dir.keep().join("logs").display());
    ExitCode::FAILURE
}
