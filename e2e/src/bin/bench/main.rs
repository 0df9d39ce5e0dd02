//! `make bench`: how long things take on a real broker and a real database. The figures are for
//! comparing with each other, from one run on one machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

mod backlog;
mod sweep;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::stack::Db;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let number = |name: &str| -> Result<u64> {
        match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} must be a number")),
            Err(_) => Ok(1_000_000),
        }
    };
    let (events, jobs) = (number("EVENTS")?, number("JOBS")?);
    let only = std::env::var("ONLY").unwrap_or_default();
    if !["", "backlog", "sweep"].contains(&only.as_str()) {
        bail!("ONLY must be backlog or sweep");
    }
    if only != "sweep" {
        backlog::run(usize::try_from(events)?).await?;
    }
    if only != "backlog" {
        for db in [Db::Postgres, Db::Sqlite] {
            sweep::measure(db, jobs).await?;
        }
    }
    Ok(())
}
