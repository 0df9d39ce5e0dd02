//! What the number of partitions does to accepting, with one replica and with three.

use std::time::Duration;

use anyhow::Result;
use e2e::stack::Stack;

use crate::accept::stop_worker;
use crate::callbacks::heartbeats;
use crate::report::Report;
use crate::rounds::{Server, side_by_side};

const CONNECTIONS: [usize; 2] = [64, 512];

/// Measures it.
pub(crate) async fn run(report: &mut Report, round: Duration) -> Result<()> {
    let requests = heartbeats(20_000);
    for (part, is_cluster, counts) in [
        ("partitions, one replica", false, &[1, 2, 4, 8, 16, 32][..]),
        ("partitions, three replicas", true, &[1, 4, 8, 16]),
    ] {
        report.part(part, "callbacks answered with 200, the worker stopped");
        let (mut stacks, mut servers) = (Vec::new(), Vec::new());
        for partitions in counts {
            let builder = Stack::builder().partitions(*partitions).stream_max_bytes(1 << 30);
            let builder = if is_cluster { builder.cluster() } else { builder };
            let mut stack = builder.start().await?;
            stop_worker(&mut stack).await?;
            let plural = if *partitions == 1 { "" } else { "s" };
            servers.push(Server::ingress_of(&stack, format!("{partitions} partition{plural}")));
            stacks.push(stack);
        }
        for connections in CONNECTIONS {
            side_by_side(report, &servers, &requests, connections, round).await?;
        }
    }
    Ok(())
}
