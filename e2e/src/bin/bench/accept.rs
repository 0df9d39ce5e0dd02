//! How fast callbacks are accepted durably, beside the servers that could be faster or simpler.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::http_load::{Pace, send};
use e2e::process::{Process, Program};
use e2e::stack::{Db, Ingress, Stack, address, listening};
use e2e::usage::peak_mib;
use shared::bundle;

use crate::callbacks::heartbeats;
use crate::report::Report;
use crate::rounds::{ROUNDS, Round, Server, broker_of, side_by_side};
use crate::streams;
use crate::yardstick::{PARTITIONS, Yardstick};

/// How many connections at a time.
const CONNECTIONS: [usize; 3] = [1, 64, 512];

/// A stack whose worker is stopped, so that it takes nothing from what is measured.
pub(crate) async fn without_worker(db: Db, max_bytes: u64) -> Result<Stack> {
    let builder = Stack::builder().db(db).partitions(PARTITIONS).stream_max_bytes(max_bytes);
    let mut stack = builder.start().await?;
    stop_worker(&mut stack).await?;
    Ok(stack)
}

/// Stops the worker, as its operator would.
pub(crate) async fn stop_worker(stack: &mut Stack) -> Result<()> {
    let status = stack.worker.process.terminate(Duration::from_secs(60)).await?;
    ensure!(status.success(), "the worker did not end");
    Ok(())
}

/// Measures it.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    report.part("accept", "callbacks answered with 200, the worker stopped");
    let stack = without_worker(Db::Sqlite, 4 << 30).await?;
    let no_publish = start(&stack, Yardstick::NoPublish).await?;
    let one_each = start(&stack, Yardstick::OnePublishEach).await?;
    let one_stream = start(&stack, Yardstick::OneStream).await?;
    let requests = heartbeats(20_000);
    let servers = [
        Server::ingress_of(&stack, "ingress"),
        no_publish.server(&stack, "publish taken out"),
        one_each.server(&stack, "one publish a request, to as many streams"),
        one_stream.server(&stack, "one publish a request"),
    ];
    let mut at_64 = 0.0;
    for connections in CONNECTIONS {
        let all = side_by_side(report, &servers, &requests, connections, round).await?;
        let rates: Vec<_> = all.iter().map(Round::rate).collect();
        let [ours, limit, each, plain] = rates[..] else { continue };
        match connections {
            64 => {
                at_64 = ours;
                report.at_least("accept, 64 connections / publish taken out", ours / limit, 0.45);
                let what = "accept, 64 connections / one publish a request";
                report.at_least(what, ours / plain, 7.0);
                report.figure(format!("{what}, to as many streams"), ours / each, "x");
            }
            512 => {
                report.at_least("accept, 512 connections / publish taken out", ours / limit, 0.55);
                let what = "accept, 512 connections / one publish a request";
                report.figure(what, ours / plain, "x");
            }
            _ => {}
        }
    }
    let peak = peak_mib(stack.ingress.process.pid())?;
    report.figure("memory of ingress, the most so far", peak, "MiB");
    report.below("ingress at 512 connections, MiB", peak, 40.0);

    let single = streams::one_at_a_time(&stack, round).await?;
    report.figure("a single durable publish, one at a time, p50", single, "ms");
    for callbacks in [1, 16, 64, bundle::MAX_CALLBACKS, 2 * bundle::MAX_CALLBACKS] {
        let rate = streams::bundles_of(&stack, callbacks, round).await?;
        report.figure(
            format!("raw: bundles of {callbacks}, published as confirmed"),
            rate,
            "callbacks/s",
        );
    }
    quarter(report, &stack.ingress, at_64, single, round).await
}

/// The latency when there is room.
async fn quarter(
    report: &mut Report,
    ingress: &Ingress,
    maximum: f64,
    single_ms: f64,
    round: Duration,
) -> Result<()> {
    let rate = maximum / 4.0;
    let requests = heartbeats((rate * round.as_secs_f64()) as usize);
    let mut tails = Vec::new();
    for _ in 0..ROUNDS {
        let outcome = send(&[ingress.addr], &requests, 64, Pace::PerSecond(rate)).await?;
        tails.push((outcome.quantile_ms(0.99)?, outcome.quantile_ms(0.5)?));
    }
    tails.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (p99, p50) = tails[ROUNDS / 2];
    report.figure(format!("ingress, a quarter of its maximum ({rate:.0}/s), p50"), p50, "ms");
    report.figure(format!("ingress, a quarter of its maximum ({rate:.0}/s), p99"), p99, "ms");
    report.below("accept, p99 at a quarter / p50 of a single publish", p99 / single_ms, 3.0);
    Ok(())
}

/// A server to compare with, which ends with it.
struct Compared {
    process: Process,
    addr: SocketAddr,
}

impl Compared {
    fn server(&self, stack: &Stack, name: &str) -> Server {
        let (addr, pid) = (self.addr, self.process.pid());
        Server { name: name.into(), addr, pid, broker: broker_of(stack) }
    }
}

/// Starts this very program as a server to compare with.
async fn start(stack: &Stack, kind: Yardstick) -> Result<Compared> {
    let program = Program::new(kind.as_str(), std::env::current_exe()?, stack.dir())
        .env("NATS_URL", stack.nats.url())
        .args(["serve", kind.as_str()]);
    let process = program.start()?;
    let listening = listening(&process).await?;
    Ok(Compared { process, addr: address(&listening, "addr")? })
}
