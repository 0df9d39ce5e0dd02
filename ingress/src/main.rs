//! The daemon `ackline-ingress`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use ingress::ServeError;
use ingress::settings::{Cli, Command, OPS_LISTEN, ServeArgs};
use shared::settings::{self, Problems};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// The exit code for a configuration or arguments that cannot be used: the same as clap's.
const UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "ackline-ingress: {error:#}");
            let unusable = error.is::<settings::Invalid>()
                || matches!(error.downcast_ref(), Some(ServeError::Broker(_)));
            if unusable { UNUSABLE.into() } else { ExitCode::FAILURE }
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let (cli, problems) = settings::parse_or_exit::<Cli>()?;
    match cli.command {
        None => serve(cli.serve, problems).await,
        // Asks whatever the settings of the daemon are.
        Some(Command::Health(args)) => Ok(args.run(OPS_LISTEN).await?),
    }
}

async fn serve(args: ServeArgs, mut problems: Problems) -> anyhow::Result<()> {
    shared::telemetry::init_logs();
    let config = args.check(&mut problems, |name| std::env::var_os(name));
    let config = problems.finish(config)?;
    let metrics = shared::telemetry::init_metrics()?;
    let shutdown = shared::shutdown::on_signal()?;
    let reload = on_hangup()?;
    let listener = listen(config.args.listen).await?;
    let ops_listener = listen(config.args.ops_listen).await?;
    let (addr, ops) = (listener.local_addr()?, ops_listener.local_addr()?);
    tracing::info!(%addr, %ops, "listening");
    ingress::serve(config, listener, ops_listener, metrics, reload, shutdown).await?;
    tracing::info!("ended");
    Ok(())
}

async fn listen(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))
}

/// Is notified of each SIGHUP.
fn on_hangup() -> std::io::Result<Arc<Notify>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let notify = Arc::new(Notify::new());
    let notified = Arc::clone(&notify);
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            notify.notify_one();
        }
    });
    Ok(notified)
}
