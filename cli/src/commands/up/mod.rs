//! `ackline up`: all of Ackline in one process, on SQLite, with a NATS server as its child.

mod data;
mod nats;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches};
use hyper::StatusCode;
use shared::health::reachable;
use shared::settings::{Problems, listen_address};
use shared::{ops, shutdown, telemetry};
use tokio_util::sync::CancellationToken;
use worker::process as daemon;

use self::data::Data;
pub use self::nats::Exec;
use self::nats::Nats;
use super::migrate::{self, Streams};
use crate::output::Output;

/// Between two questions whether a part is ready.
const POLL: Duration = Duration::from_millis(50);

/// `ackline up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The folder for all data. It is created if it does not exist.
    #[arg(long, value_name = "FOLDER", default_value = ".data")]
    data: PathBuf,
    /// The program nats-server. By default the one beside `ackline`, on PATH, or in `.tools/bin` of
    /// this folder or of one above it.
    #[arg(long, env = "NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// The port of nats-server, on 127.0.0.1. Here and below, 0 stands for any free port.
    #[arg(long, value_name = "PORT", default_value_t = 4222)]
    nats_port: u16,
    /// Where ingress takes callbacks.
    #[arg(long, env = "INGRESS_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    listen: SocketAddr,
    /// Where ingress serves /livez, /readyz and /metrics.
    #[arg(long, default_value = ingress::settings::OPS_LISTEN, value_parser = listen_address)]
    ingress_ops_listen: SocketAddr,
    /// Where the worker serves the console, its API, /livez, /readyz and /metrics.
    #[arg(long, default_value = daemon::settings::OPS_LISTEN, value_parser = listen_address)]
    worker_ops_listen: SocketAddr,
}

/// Where callbacks arrive, and where ingress and the worker are looked at.
struct Listeners {
    callbacks: TcpListener,
    ingress_ops: TcpListener,
    worker_ops: TcpListener,
}

/// Runs everything until Ctrl-C or SIGTERM.
///
/// # Errors
/// When a part can't start, or ends by itself; in the end the others have ended, too.
pub async fn run(args: &Up, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let program = nats::find(args.nats_server.as_deref())?;
    let data = Data::open(&args.data).await?;
    let listeners = Listeners::bind(args)?;
    let starting = shutdown.run_until_cancelled(Nats::start(&program, &data, args.nats_port));
    let Some(mut nats) = starting.await.transpose()? else { return Ok(()) };
    let served = serve(&data, listeners, &mut nats, &shutdown, out).await;
    let stopped = nats.stop().await;
    served.and(stopped)
}

impl Listeners {
    /// Takes the ports before anything starts, so that all that are in use are named at once.
    fn bind(args: &Up) -> anyhow::Result<Self> {
        let mut problems = Problems::default();
        let mut bind = |flag: &str, address: SocketAddr| {
            let bound = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            problems.take(flag, bound.map_err(|error| format!("{address} can't be used: {error}")))
        };
        // nats-server takes it next.
        let nats = bind("--nats-port", SocketAddr::from(([127, 0, 0, 1], args.nats_port)));
        let callbacks = bind("--listen", args.listen);
        let ingress_ops = bind("--ingress-ops-listen", args.ingress_ops_listen);
        let worker_ops = bind("--worker-ops-listen", args.worker_ops_listen);
        let listeners = nats.zip(callbacks).zip(ingress_ops).zip(worker_ops);
        let (((_, callbacks), ingress_ops), worker_ops) = problems.finish(listeners)?;
        Ok(Self { callbacks, ingress_ops, worker_ops })
    }
}

/// Runs ingress and the worker until the end, or until one of the parts has ended.
async fn serve(
    data: &Data,
    listeners: Listeners,
    nats: &mut Nats,
    shutdown: &CancellationToken,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let (callbacks, callbacks_at) = listening(listeners.callbacks)?;
    let (ingress_ops, ingress_ops_at) = listening(listeners.ingress_ops)?;
    let (worker_ops, worker_ops_at) = listening(listeners.worker_ops)?;
    let nats_url = format!("nats://{}", nats.address);
    let (secrets, database_url) = (data.secrets()?, data.database_url()?);
    let mut problems = Problems::default();
    let ingress = settings::<ingress::settings::Cli>(
        &mut problems,
        &[
            ("--listen", callbacks_at.to_string()),
            ("--ops-listen", ingress_ops_at.to_string()),
            ("--nats-url", nats_url.clone()),
            ("--secrets-file", secrets.display().to_string()),
        ],
    );
    let worker = settings::<daemon::settings::Cli>(
        &mut problems,
        &[
            ("--ops-listen", worker_ops_at.to_string()),
            ("--nats-url", nats_url.clone()),
            ("--database-url", database_url.clone()),
            ("--ingress-ops", ingress_ops_at.to_string()),
        ],
    );
    let ingress = ingress
        .and_then(|ingress| ingress.serve.check(&mut problems, |name| std::env::var_os(name)));
    let worker = worker.and_then(|worker| worker.run.check(&mut problems));
    let (ingress, worker) = problems.finish(ingress.zip(worker))?;

    let streams = Streams::default();
    let migrating = migrate::migrate(&worker.database, &worker.servers, &streams);
    let Some(()) = shutdown.run_until_cancelled(migrating).await.transpose()? else {
        return Ok(());
    };
    let directions = Directions {
        callback_url: format!("http://{}{}", reachable(callbacks_at), ingress.args.callback_path),
        console: format!("http://{}/", reachable(worker_ops_at)),
        secrets,
        database_url,
        nats_url,
        nats_log: data.path("nats-server.log"),
    };
    // One process has one recorder: both listeners show the metrics of both parts.
    let metrics = telemetry::init_metrics()?;
    let worker_end = CancellationToken::new();
    let ingress = async {
        let (metrics, reload) = (metrics.clone(), Arc::default());
        let ended =
            ingress::serve(ingress, callbacks, ingress_ops, metrics, reload, shutdown.clone())
                .await;
        // Whoever ends first ends the others: ingress first, then the worker.
        shutdown.cancel();
        worker_end.cancel();
        ended.context("ingress has ended")
    };
    let worker = async {
        let traces = worker.traces.clone().start("ackline-worker");
        let (metrics, end) = (metrics.clone(), worker_end.clone());
        let ended = daemon::run(worker, worker_ops, metrics, traces.clone(), end).await;
        shutdown.cancel();
        traces.finish().await;
        ended.context("the worker has ended")
    };
    let telling = shutdown.run_until_cancelled(async {
        until_ready(ingress_ops_at).await;
        until_ready(worker_ops_at).await;
        directions.print(out)
    });
    let parts = async {
        let (ingress, worker, told) = tokio::join!(ingress, worker, telling);
        ingress.and(worker).and(told.unwrap_or(Ok(())))
    };
    let mut parts = pin!(parts);
    tokio::select! {
        ended = &mut parts => ended,
        why = nats.ended() => {
            shutdown.cancel();
            // Without it they can't end well, and that is not what is wrong.
            let _ = parts.await;
            Err(why)
        }
    }
}

fn listening(listener: TcpListener) -> std::io::Result<(tokio::net::TcpListener, SocketAddr)> {
    let address = listener.local_addr()?;
    Ok((tokio::net::TcpListener::from_std(listener)?, address))
}

/// The settings of a daemon: these flags, and for all else its variables. What leads to its own
/// broker and database counts from no variable.
fn settings<C: CommandFactory + FromArgMatches>(
    problems: &mut Problems,
    flags: &[(&str, String)],
) -> Option<C> {
    let command = C::command().mut_args(|arg| {
        let is_own =
            ["nats_", "database_"].iter().any(|own| arg.get_id().as_str().starts_with(own));
        if is_own { arg.env(None::<&str>) } else { arg }
    });
    let flags = flags.iter().map(|(flag, value)| format!("{flag}={value}"));
    let args = std::iter::once("ackline".to_owned()).chain(flags);
    shared::settings::parse(command, args, problems).unwrap_or_else(|error| error.exit())
}

async fn until_ready(ops: SocketAddr) {
    let is_ready =
        async || matches!(ops::client::get(ops, "/readyz").await, Ok((StatusCode::OK, _)));
    while !is_ready().await {
        tokio::time::sleep(POLL).await;
    }
}

/// What a person does next.
struct Directions {
    callback_url: String,
    console: String,
    secrets: PathBuf,
    database_url: String,
    nats_url: String,
    nats_log: PathBuf,
}

impl Directions {
    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let ackline = std::env::args().next().unwrap_or_else(|| "ackline".into());
        let ackline = quoted(&ackline);
        let Self { callback_url, console, .. } = self;
        writeln!(
            out,
            r#"
Ackline is up. Ctrl-C stops it; the next start finds the data again.

  callbacks  {callback_url}
  console    {console} (its API: {console}api/v1/jobs)
  logs       here, and {nats_log}

In another terminal:
  export CALLBACK_URL={callback_url}
  export CALLBACK_SECRETS_FILE={secrets}
  export DATABASE_URL={database} NATS_URL={nats_url}
  {ackline} send --job-id job-1 --status queued
  {ackline} jobs watch job-1

With curl:
  body='{{"job_id":"job-1","status":"running"}}'
  curl -d "$body" -H "X-Signature: $(printf %s "$body" | {ackline} sign)" $CALLBACK_URL
"#,
            nats_log = self.nats_log.display(),
            secrets = quoted(&self.secrets.display().to_string()),
            database = quoted(&self.database_url),
            nats_url = self.nats_url,
        )?;
        Ok(out.flush()?)
    }
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_shell_takes_a_word_as_it_is() {
        assert_eq!(super::quoted("/home/me/.data/secrets"), "/home/me/.data/secrets");
        assert_eq!(super::quoted("it's here"), r"'it'\''s here'");
    }
}
