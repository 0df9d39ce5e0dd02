//! The daemon `ackline-worker`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shared::settings::Invalid;
use shared::{shutdown, telemetry};
use tokio::net::TcpListener;
use worker::process::settings::{Cli, Command, OPS_LISTEN, RunArgs};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => run(&cli.run).await,
        Some(Command::Health(args)) => args.run(OPS_LISTEN).await.map_err(Into::into),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    #[expect(clippy::print_stderr, reason = "the last words of a process are for its caller")]
    {
        eprintln!("ackline-worker: {error:#}");
    }
    if error.is::<Invalid>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

async fn run(args: &RunArgs) -> anyhow::Result<()> {
    telemetry::init_logs();
    let config = args.check()?;
    let shutdown = shutdown::on_signal()?;
    let metrics = telemetry::init_metrics()?;
    let listener = TcpListener::bind(config.ops_listen)
        .await
        .with_context(|| format!("--ops-listen: {} can't be bound", config.ops_listen))?;
    let traces = config.traces.clone().start("ackline-worker");
    let ran = worker::process::run(config, listener, metrics, traces.clone(), shutdown).await;
    traces.finish().await;
    ran
}
