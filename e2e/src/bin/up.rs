//! `make up`: Ackline on its default ports with its data in `.data`, until Ctrl-C.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::port::Port;
use e2e::stack::{Stack, random_secret};
use e2e::tools;
use tokio::signal::unix::{Signal, SignalKind, signal};

const NATS: u16 = 4222;
const INGRESS: u16 = 8080;
const INGRESS_OPS: u16 = 9080;
const WORKER_OPS: u16 = 9081;

/// 4 GiB for all sixteen streams, which every machine for development has room for.
const STREAM_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// What stays in memory of each part's output; the files have all of it.
const KEPT_LINES: usize = 200;
const POLL: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> ExitCode {
    match up().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Ackline is not up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn up() -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let data = tools::workspace().join(".data");
    fs::create_dir_all(&data).with_context(|| format!("can't make {}", data.display()))?;

    println!("Starting nats-server, worker and ingress with their data in {} …", data.display());
    let mut stack = tokio::select! {
        stack = start(&data) => stack?,
        // What has been started ends with the future that was starting it.
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    print_directions(&stack, &data);

    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        ended = first_to_end(&stack) => Err(ended),
    };
    println!("\nStopping ingress, worker and nats-server …");
    let stopped = tokio::select! {
        stopped = stack.shut_down() => stopped,
        () = signals.next() => return Ok(ExitCode::from(130)),
    };
    match ended {
        Ok(()) => stopped.map(|()| ExitCode::SUCCESS),
        Err(ended) => bail!(ended),
    }
}

async fn start(data: &Path) -> Result<Stack> {
    let nats = Port::fixed(NATS, "nats-server")?;
    for (port, owner) in
        [(INGRESS, "ingress"), (INGRESS_OPS, "ingress's ops listener"), (WORKER_OPS, "worker")]
    {
        Port::fixed(port, owner)?;
    }
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut builder = Stack::builder()
        .dir(data)
        .secret(kept_secret(&data.join("callback-secret"))?)
        .nats_port(nats)
        .ingress_listen(local(INGRESS), local(INGRESS_OPS))
        .worker_ops(local(WORKER_OPS))
        .env("INGRESS_OPS", local(INGRESS_OPS).to_string())
        .stream_max_bytes(STREAM_MAX_BYTES)
        .keep_lines(KEPT_LINES);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        builder = builder.env("RUST_LOG", filter);
    }
    builder.start().await
}

/// The secret of the last time, or a new one that only this user can read.
fn kept_secret(path: &Path) -> Result<String> {
    let context = || format!("the secret in {}", path.display());
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let secret = random_secret()?;
            writeln!(file, "{secret}").with_context(context)?;
            Ok(secret)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let secret = fs::read_to_string(path).with_context(context)?.trim().to_owned();
            ensure!(!secret.is_empty(), "{} is empty: remove it for a new one", path.display());
            Ok(secret)
        }
        Err(error) => Err(error).with_context(context),
    }
}

fn print_directions(stack: &Stack, data: &Path) {
    let (secret, logs) = (data.join("callback-secret"), data.join("logs"));
    println!(
        "
Ackline is up; Ctrl-C stops it, and the next `make up` finds the data again.

Send a callback:
  CALLBACK_SECRET=$(cat '{secret}') CALLBACK_URL={url} \\
    cargo run -q -p ingress -- send --status queued --job-id job-1 --agent-id agent-1 --region eu-central-1

Look at the jobs, in a browser or in the terminal:
  http://{worker}/
  DATABASE_URL='{database}' cargo run -q -p worker -- jobs list
  DATABASE_URL='{database}' cargo run -q -p worker -- jobs show job-1

Look at the parts:
  ingress      http://{ingress}/readyz  http://{ingress}/metrics
  worker       http://{worker}/readyz  http://{worker}/metrics
  nats-server  {nats}
  logs         {logs}
",
        secret = secret.display(),
        url = stack.callback_url(),
        database = stack.database_url(),
        ingress = stack.ingress.ops,
        worker = stack.worker.ops,
        nats = stack.nats.url(),
        logs = logs.display(),
    );
}

/// Waits until one of the parts has ended, which none should, and says which.
async fn first_to_end(stack: &Stack) -> String {
    loop {
        for process in [&stack.ingress.process, &stack.worker.process, stack.nats.node(0).process()]
        {
            if !process.is_running() {
                return format!("{} has ended\n{}", process.name(), process.log().tail(10));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The signals that ask for the end: Ctrl-C, SIGTERM, and the terminal's own end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("can't listen to signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
