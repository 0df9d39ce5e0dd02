//! What many workers hold and ask while nothing happens, most of which own no partition.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::stack::{Db, Stack, Worker};
use e2e::usage::{cpu_seconds, peak_mib};
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::task::unconstrained;

use crate::report::Report;

/// As in a new deployment.
const PARTITIONS: u16 = 4;

/// Measures it for so long with as many workers as partitions, and then with this many.
pub(crate) async fn run(report: &mut Report, most: usize, lasting: Duration) -> Result<()> {
    let mut stack = Stack::builder().db(Db::Postgres).partitions(PARTITIONS).start().await?;
    let postgres = stack.postgres.as_mut().context("PostgreSQL was asked for")?;
    // A worker opens up to six connections.
    let connections = 6 * most + 20;
    postgres.psql(&format!("ALTER SYSTEM SET max_connections = {connections}")).await?;
    postgres.stop_server().await?;
    postgres.restart().await?;
    let mut others = Vec::new();
    for count in [usize::from(PARTITIONS), most] {
        while others.len() + 1 < count {
            others.push(stack.start_worker_with(&[], &[]).await?);
        }
        let what = format!("nothing happens, {PARTITIONS} partitions");
        report.part(format!("workers, {count}"), &what);
        measure(report, &stack, &others, lasting).await?;
    }
    drop(others);
    stack.shut_down().await
}

async fn measure(
    report: &mut Report,
    stack: &Stack,
    others: &[Worker],
    lasting: Duration,
) -> Result<()> {
    let postgres = stack.postgres.as_ref().context("PostgreSQL was asked for")?;
    let figure = async |sql: &str| -> Result<f64> { Ok(postgres.psql(sql).await?.trim().parse()?) };
    const TRANSACTIONS: &str = "SELECT xact_commit + xact_rollback FROM pg_stat_database \
                                WHERE datname = current_database()";
    const LOG_BYTES: &str = "SELECT pg_current_wal_lsn() - '0/0'";
    const CONNECTIONS: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ackline-worker'";
    let workers = || std::iter::once(&stack.worker).chain(others);
    let cpu = || workers().map(|worker| cpu_seconds(worker.process.pid())).sum::<Result<f64>>();

    // For the shares, and for the first looks at everything.
    tokio::time::sleep(lasting / 2).await;
    let client = stack.nats.client().await?;
    let mut told = client.subscribe("$JS.EVENT.ADVISORY.API").await?;
    client.flush().await?;
    let before = (cpu()?, figure(TRANSACTIONS).await?, figure(LOG_BYTES).await?);
    tokio::time::sleep(lasting).await;
    let after = (cpu()?, figure(TRANSACTIONS).await?, figure(LOG_BYTES).await?);
    let mut questions: HashMap<String, u64> = HashMap::new();
    // Tokio would let a task wait after so many messages.
    while let Some(Some(message)) = unconstrained(told.next()).now_or_never() {
        let asked: Value = serde_json::from_slice(&message.payload)?;
        let subject = asked["subject"].as_str().unwrap_or_default();
        let kind = subject.trim_start_matches("$JS.API.").split('.').take(2);
        *questions.entry(kind.collect::<Vec<_>>().join(".")).or_default() += 1;
    }

    let seconds = lasting.as_secs_f64();
    let count = workers().count() as f64;
    report.figure("connections to PostgreSQL", figure(CONNECTIONS).await?, "");
    report.figure("transactions on PostgreSQL", (after.1 - before.1) / seconds, "a second");
    report.figure("its log", (after.2 - before.2) / seconds / 1024.0, "KiB a second");
    let all: u64 = questions.values().sum();
    report.figure("questions to the broker", all as f64 / seconds, "a second");
    let descriptions = questions.get("STREAM.INFO").copied().unwrap_or_default();
    report.figure("of these, descriptions of streams", descriptions as f64 / seconds, "a second");
    report.figure("each worker", 100.0 * (after.0 - before.0) / seconds / count, "% of a core");
    let memory = workers().map(|worker| peak_mib(worker.process.pid())).sum::<Result<f64>>()?;
    report.figure("each worker", memory / count, "MiB");
    Ok(())
}
