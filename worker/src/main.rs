//! The daemon `ackline-worker`.

use std::process::ExitCode;

use anyhow::Context;
use shared::settings::{self, Invalid, Problems};
use shared::{shutdown, telemetry};
use tokio::net::TcpListener;
use worker::process::settings::{Cli, Command, OPS_LISTEN, RunArgs};

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    #[expect(clippy::print_stderr, reason = "the last words of a process are for its caller")]
    {
        eprintln!("ackline-worker: {error:#}");
    }
    if error.is::<Invalid>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

async fn run() -> anyhow::Result<()> {
    let (cli, problems) = settings::parse_or_exit::<Cli>()?;
    match cli.command {
        None => work(cli.run, problems).await,
        // Asks whatever the settings of the daemon are.
        Some(Command::Health(args)) => Ok(args.run(OPS_LISTEN).await?),
    }
}

async fn work(args: RunArgs, mut problems: Problems) -> anyhow::Result<()> {
    telemetry::init_logs();
    let config = args.check(&mut problems);
    let config = problems.finish(config)?;
    let shutdown = shutdown::on_signal()?;
    let metrics = telemetry::init_metrics()?;
    let address = config.args.ops_listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("--ops-listen (OPS_LISTEN): can't listen on {address}"))?;
    let traces = config.traces.clone().start("ackline-worker");
    let ran = worker::process::run(config, listener, metrics, traces.clone(), shutdown).await;
    traces.finish().await;
    ran
}
