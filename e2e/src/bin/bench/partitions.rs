//! What the number of partitions does to accepting, with one replica and with three.

use std::time::Duration;

use anyhow::Result;
use e2e::stack::Stack;
use e2e::usage::cpu_seconds;
use e2e::volley::{Outcome, Pace, send};

use crate::accept::stop_worker;
use crate::callbacks::heartbeats;
use crate::report::Report;

const CONNECTIONS: [usize; 2] = [64, 512];
/// Each number is measured so often, in turns; the median counts.
const ROUNDS: usize = 3;

/// Measures it.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    let requests = heartbeats(20_000);
    for (part, is_cluster, counts) in [
        ("partitions, one replica", false, &[1, 2, 4, 8, 16, 32][..]),
        ("partitions, three replicas", true, &[1, 4, 8, 16]),
    ] {
        report.part(part, "callbacks answered with 200, the worker stopped");
        let mut stacks = Vec::new();
        for partitions in counts {
            let builder = Stack::builder().partitions(*partitions).stream_max_bytes(1 << 30);
            let builder = if is_cluster { builder.cluster() } else { builder };
            let mut stack = builder.start().await?;
            stop_worker(&mut stack).await?;
            stacks.push(stack);
        }
        for connections in CONNECTIONS {
            let mut all: Vec<Vec<(Outcome, f64)>> = stacks.iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                for (stack, rounds) in stacks.iter().zip(&mut all) {
                    let pace = Pace::AsAnswered(round);
                    let before = cpu(stack)?;
                    let outcome = send(&[stack.ingress.addr], &requests, connections, pace).await?;
                    let each = 1e6 / outcome.shots.len().max(1) as f64;
                    rounds.push((outcome, each * (cpu(stack)? - before)));
                }
            }
            for (partitions, mut rounds) in counts.iter().zip(all) {
                rounds.sort_by(|(a, _), (b, _)| a.per_second().total_cmp(&b.per_second()));
                let (outcome, cpu) = rounds.swap_remove(ROUNDS / 2);
                let plural = if *partitions == 1 { "" } else { "s" };
                let what = format!("{partitions} partition{plural}, {connections} at a time");
                report.figure(what.clone(), outcome.per_second(), "callbacks/s");
                report.quantiles(&what, |part| outcome.quantile_ms(part))?;
                report.figure(format!("{what}, CPU of all servers"), cpu, "us a callback");
            }
        }
    }
    Ok(())
}

/// Seconds of a processor that ingress and the broker have used.
fn cpu(stack: &Stack) -> Result<f64> {
    let mut used = cpu_seconds(stack.ingress.process.pid())?;
    for node in 0..stack.nats.size() {
        used += cpu_seconds(stack.nats.node(node).process().pid())?;
    }
    Ok(used)
}
