//! `ackline`: everything that a person types.

pub mod commands;
mod moving;
mod output;
mod streams;

pub use output::{Bars, Output};

use std::io;

use clap::{Parser, Subcommand};
use sea_orm::DbErr;
use worker::store::fault;

use commands::{
    SystemArgs, audit, dead_letters, jobs, migrate, move_streams, partitions, prune, rebuild, send,
    sign, status, up,
};

/// Runs Ackline, and looks after it.
#[derive(Debug, Parser)]
#[command(name = "ackline", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `ackline` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all of Ackline on this machine: ingress, a worker on SQLite, and a NATS server.
    Up(up::Up),
    #[command(hide = true)]
    /// What `up` starts its NATS server by.
    ExecNatsServer(up::Exec),
    /// Create the schema and the streams, or check them.
    Migrate(migrate::Migrate),
    /// Say whether everything is in order: jobs, partitions, dead letters, refusals. Exits 1 with
    /// what needs somebody if not.
    Status(status::Status),
    /// Look at jobs.
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Send a signed callback, as the workflow does.
    Send(Box<send::Send>),
    /// Print the signature of a body.
    Sign(sign::Sign),
    /// Prove that what was accepted is what was applied. Exits 1 with the differences if not.
    Audit(SystemArgs),
    /// Fold the streams into an empty database, or show what one job would be.
    Rebuild(rebuild::Rebuild),
    /// Look at what could not be applied, and decide what becomes of it.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Move to other streams, under load: of another cluster, with other replicas, or in the place of
    /// lost ones.
    Move(Box<move_streams::Move>),
    /// Look at partitions, let a stopped one go on, or change their number.
    #[command(subcommand)]
    Partitions(partitions::Partitions),
    /// Remove finished jobs that are old and of which the streams hold nothing any more.
    Prune(prune::Prune),
}

/// Does what was asked for.
///
/// # Errors
/// What the command says.
pub async fn run(command: Command, bars: &Bars) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(&args, &mut Output::stdout()).await,
        Command::ExecNatsServer(exec) => exec.run(),
        Command::Migrate(args) => migrate::run(&args).await,
        Command::Status(args) => status::run(&args, &mut Output::stdout()).await,
        Command::Jobs(command) => jobs::run(&command, &mut Output::stdout()).await,
        Command::Send(args) => send::run(&args).await,
        Command::Sign(args) => sign::run(&args),
        Command::Audit(args) => audit::run(&args, bars, &mut Output::stdout()).await,
        Command::Rebuild(args) => rebuild::run(&args, bars, &mut Output::stdout()).await,
        Command::DeadLetters(command) => dead_letters::run(&command, &mut Output::stdout()).await,
        Command::Move(args) => move_streams::run(&args, &mut Output::stdout()).await,
        Command::Partitions(command) => partitions::run(&command, &mut Output::stdout()).await,
        Command::Prune(args) => prune::run(&args, bars, &mut Output::stdout()).await,
    }
}

/// Whether whoever read the output has had enough, as with `| head`.
#[must_use]
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// What is printed of an error: its causes, one after the other. Of a database it is what that says,
/// with the code; the driver's text would name a line of PostgreSQL's source.
#[must_use]
pub fn said(error: &anyhow::Error) -> String {
    let mut said = Vec::new();
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<DbErr>() {
            // What is behind it says the same.
            said.push(fault::text(error));
            break;
        }
        said.push(cause.to_string());
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_can_be_built() {
        super::Cli::command().debug_assert();
    }
}
