//! What the number of partitions does to accepting, with one replica and with three.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::stack::Stack;
use e2e::volley::{Pace, send};

use crate::accept::heartbeats;
use crate::apply::stop;
use crate::report::Report;

const COUNTS: [u16; 5] = [1, 4, 8, 16, 32];

/// Measures it.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    let requests = heartbeats(20_000);
    for (part, is_cluster) in [("partitions, one replica", false), ("three replicas", true)] {
        report.part(part, "callbacks answered with 200, the worker stopped");
        for partitions in COUNTS {
            let builder = Stack::builder().partitions(partitions).stream_max_bytes(1 << 30);
            let builder = if is_cluster { builder.cluster() } else { builder };
            let mut stack = builder.start().await?;
            stop(&mut stack).await?;
            for connections in [64, 512] {
                let pace = Pace::AsAnswered(round);
                let outcome = send(&[stack.ingress.addr], &requests, connections, pace).await?;
                ensure!(outcome.refused == 0, "{} were refused", outcome.refused);
                let what = format!("{partitions} partitions, {connections} at a time");
                report.figure(what.clone(), outcome.per_second(), "callbacks/s");
                report.figure(format!("{what}, p99"), outcome.quantile_ms(0.99)?, "ms");
            }
        }
    }
    Ok(())
}
