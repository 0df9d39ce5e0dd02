//! The worker's command line.

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shared::config::Invalid;
use shared::{shutdown, telemetry};
use tokio::net::TcpListener;
use worker::config::run::OPS_LISTEN;
use worker::config::{Cli, Command};
use worker::ops::watch::Unfinished;
use worker::ops::{self, Bars, Output};
use worker::run;

#[tokio::main]
async fn main() -> ExitCode {
    let bars = Bars::on_stderr();
    let beside = bars.clone();
    telemetry::init_logs_to(move || beside.beside());
    let Err(error) = execute(Cli::parse().command, &bars).await else { return ExitCode::SUCCESS };
    if is_closed_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    #[expect(clippy::print_stderr, reason = "the last words of a command are for its caller")]
    {
        eprintln!("worker: {error:#}");
    }
    if error.is::<Invalid>() {
        ExitCode::from(2)
    } else if error.is::<Unfinished>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}

async fn execute(command: Command, bars: &Bars) -> anyhow::Result<()> {
    match command {
        Command::Migrate(args) => ops::migrate::migrate(args.check()?).await,
        Command::Run(args) => {
            let config = args.check()?;
            let shutdown = shutdown::on_signal()?;
            let metrics = telemetry::init_metrics()?;
            let listener = TcpListener::bind(config.ops_listen)
                .await
                .with_context(|| format!("--ops-listen: {} can't be bound", config.ops_listen))?;
            let traces = config.traces.clone().start("ackline-worker");
            let ran = run::run(config, listener, metrics, traces.clone(), shutdown).await;
            traces.finish().await;
            ran
        }
        Command::Health(args) => Ok(args.run(OPS_LISTEN).await?),
        Command::DeadLetters { command } => {
            ops::dead_letters::run(command, &mut Output::stdout()).await
        }
        Command::Status(args) => ops::status::run(args.check()?, &mut Output::stdout()).await,
        Command::Audit(args) => ops::audit::run(args.check()?, bars, &mut Output::stdout()).await,
        Command::Rebuild(args) => {
            let (config, shutdown) = (args.check()?, shutdown::on_signal()?);
            ops::rebuild::run(config, shutdown, bars, &mut Output::stdout()).await
        }
        Command::Prune(args) => ops::prune::run(args.check()?, bars, &mut Output::stdout()).await,
        Command::Partitions { command } => {
            ops::partitions::run(command, &mut Output::stdout()).await
        }
        Command::Jobs { command } => ops::jobs::run(command, &mut Output::stdout()).await,
    }
}

/// Whoever read the output has had enough, as with `| head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
