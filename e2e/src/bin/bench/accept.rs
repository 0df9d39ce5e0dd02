//! How fast callbacks are accepted durably, beside the servers that could be faster or simpler.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::http_load::{Pace, send};
use e2e::process::Program;
use e2e::stack::{Db, Ingress, Stack, address, listening};
use e2e::usage::peak_mib;

use crate::callbacks::heartbeats;
use crate::report::Report;
use crate::rounds::{ROUNDS, Round, Server, broker_of, side_by_side};
use crate::streams;
use crate::yardstick::partition_count;

/// How many connections at a time.
const CONNECTIONS: [usize; 3] = [1, 64, 512];

/// A stack whose worker is stopped, so that it takes nothing from what is measured.
pub(crate) async fn without_worker(db: Db, max_bytes: u64) -> Result<Stack> {
    let builder = Stack::builder().db(db).partitions(partition_count()).stream_max_bytes(max_bytes);
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
    let requests = heartbeats(20_000);
    let servers = [
        Server::ingress_of(&stack, "ingress"),
        start(&stack, "no-publish", "publish taken out").await?,
        start(&stack, "one-publish", "one publish a request").await?,
    ];
    let mut at_64 = 0.0;
    for connections in CONNECTIONS {
        let all = side_by_side(report, &servers, &requests, connections, round).await?;
        let rates: Vec<_> = all.iter().map(Round::rate).collect();
        let [ours, limit, plain] = rates[..] else { continue };
        match connections {
            64 => {
                at_64 = ours;
                report.at_least("accept, 64 connections / publish taken out", ours / limit, 0.35);
                let what = "accept, 64 connections / one publish a request";
                report.at_least(what, ours / plain, 5.5);
            }
            512 => {
                report.at_least("accept, 512 connections / publish taken out", ours / limit, 0.65);
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
    report.below("accept, p99 at a quarter / p50 of a single publish", p99 / single_ms, 8.0);
    Ok(())
}

/// What the number of partitions does to accepting, with one replica and with three.
pub(crate) async fn partitions(report: &mut Report, round: Duration) -> Result<()> {
    let requests = heartbeats(20_000);
    for (part, is_cluster, counts) in [
        ("partitions, one replica", false, &[1, 2, 4, 8, 16, 32][..]),
        ("partitions, three replicas", true, &[1, 2, 4, 8, 16]),
    ] {
        report.part(part, "callbacks answered with 200, the worker stopped");
        let (mut stacks, mut servers) = (Vec::new(), Vec::new());
        for partitions in counts {
            let builder = Stack::builder().partitions(*partitions).stream_max_bytes(1 << 30);
            let builder = if is_cluster { builder.cluster() } else { builder };
            let mut stack = builder.start().await?;
            stop_worker(&mut stack).await?;
            servers.push(Server::ingress_of(&stack, format!("partitions: {partitions}")));
            stacks.push(stack);
        }
        for connections in [64, 512] {
            side_by_side(report, &servers, &requests, connections, round).await?;
        }
    }
    Ok(())
}

/// Starts this very program as a server to compare with.
async fn start(stack: &Stack, yardstick: &str, name: &str) -> Result<Server> {
    let process = Program::new(yardstick, std::env::current_exe()?, stack.dir())
        .env("NATS_URL", stack.nats.url())
        .args(["serve", yardstick])
        .start()?;
    let addr = address(&listening(&process).await?, "addr")?;
    let (name, pid, broker) = (name.to_owned(), process.pid(), broker_of(stack));
    Ok(Server { name, addr, pid, broker, _process: Some(process) })
}
