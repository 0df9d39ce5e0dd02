//! Servers that are measured in turns, so that what else the machine does disturbs all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use e2e::http_load::{Outcome, Pace, Requests, send};
use e2e::process::Process;
use e2e::stack::Stack;
use e2e::usage::cpu_seconds;

use crate::report::Report;

/// Each server is measured so often; the median counts.
pub(crate) const ROUNDS: usize = 5;

/// One that callbacks are sent to.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) pid: u32,
    /// The servers of the broker behind it.
    pub(crate) broker: Vec<u32>,
    /// Ends with it, unless it belongs to a stack.
    pub(crate) _process: Option<Process>,
}

impl Server {
    /// A stack's ingress.
    pub(crate) fn ingress_of(stack: &Stack, name: impl Into<String>) -> Self {
        let (addr, pid) = (stack.ingress.addr, stack.ingress.process.pid());
        Self { name: name.into(), addr, pid, broker: broker_of(stack), _process: None }
    }
}

/// The processes of a stack's broker.
pub(crate) fn broker_of(stack: &Stack) -> Vec<u32> {
    (0..stack.nats.size()).map(|node| stack.nats.node(node).process.pid()).collect()
}

/// What one round of a server's has shown.
pub(crate) struct Round {
    outcome: Outcome,
    /// Microseconds of a processor for each callback.
    server_us: f64,
    broker_us: f64,
}

impl Round {
    /// Callbacks in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.outcome.per_second()
    }

    fn show(&self, report: &mut Report, what: &str) -> Result<()> {
        report.figure(what, self.rate(), "callbacks/s");
        report.quantiles(what, |part| self.outcome.quantile_ms(part))?;
        report.figure(format!("{what}, CPU of the server"), self.server_us, "us a callback");
        report.figure(format!("{what}, CPU of the broker"), self.broker_us, "us a callback");
        Ok(())
    }
}

/// Measures servers flat out over so many connections, and shows each one's median round.
pub(crate) async fn side_by_side(
    report: &mut Report,
    servers: &[Server],
    requests: &Arc<Requests>,
    connections: usize,
    round: Duration,
) -> Result<Vec<Round>> {
    let mut rounds: Vec<Vec<Round>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (rounds, Server { addr, pid, broker, .. }) in rounds.iter_mut().zip(servers) {
            send(&[*addr], requests, connections, Pace::AsAnswered(round / 8)).await?;
            let before = (cpu_seconds(*pid)?, cpu_of_all(broker)?);
            let outcome = send(&[*addr], requests, connections, Pace::AsAnswered(round)).await?;
            let each = 1e6 / outcome.answered.len().max(1) as f64;
            rounds.push(Round {
                server_us: each * (cpu_seconds(*pid)? - before.0),
                broker_us: each * (cpu_of_all(broker)? - before.1),
                outcome,
            });
        }
    }
    let median = |mut rounds: Vec<Round>| {
        rounds.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        rounds.swap_remove(ROUNDS / 2)
    };
    let medians: Vec<_> = rounds.into_iter().map(median).collect();
    for (round, Server { name, .. }) in medians.iter().zip(servers) {
        round.show(report, &format!("{name}, {connections} at a time"))?;
    }
    Ok(medians)
}

fn cpu_of_all(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}
