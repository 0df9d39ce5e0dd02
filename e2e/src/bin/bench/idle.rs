//! What the processes take when nothing happens.

use std::time::Duration;

use anyhow::Result;
use e2e::stack::{Db, Stack};
use e2e::usage::cpu_seconds;

use crate::report::Report;
use crate::yardstick::partition_count;

/// Measures it for so long.
pub(crate) async fn run(report: &mut Report, lasting: Duration) -> Result<()> {
    for db in Db::ALL {
        let partitions = partition_count();
        let what = format!("no callbacks, {partitions} partitions");
        report.part(format!("idle, {}", db.name()), &what);
        let mut stack = Stack::builder().db(db).partitions(partitions).start().await?;
        // For starting, and for the first looks at everything.
        tokio::time::sleep(lasting / 4).await;
        let of = |stack: &Stack| -> Result<[f64; 2]> {
            let [ingress, worker] = [stack.ingress.process.pid(), stack.worker.process.pid()];
            Ok([cpu_seconds(ingress)?, cpu_seconds(worker)?])
        };
        let (before, transactions_before) = (of(&stack)?, transactions(&stack).await?);
        tokio::time::sleep(lasting).await;
        let (after, transactions_after) = (of(&stack)?, transactions(&stack).await?);
        let share = |index: usize| 100.0 * (after[index] - before[index]) / lasting.as_secs_f64();
        report.figure("ingress", share(0), "% of a core");
        report.figure("worker", share(1), "% of a core");
        if db == Db::Postgres {
            report.below("idle ingress, % of a core", share(0), 0.5);
            report.below("idle worker on PostgreSQL, % of a core", share(1), 0.15);
        } else {
            report.below("idle worker on SQLite, % of a core", share(1), 0.15);
        }
        if let (Some(before), Some(after)) = (transactions_before, transactions_after) {
            let each_minute = (after - before) * 60.0 / lasting.as_secs_f64();
            report.figure("transactions on the database", each_minute, "a minute");
        }
        stack.shut_down().await?;
    }
    Ok(())
}

/// Transactions that PostgreSQL has ended so far, as far as it has counted them.
async fn transactions(stack: &Stack) -> Result<Option<f64>> {
    let Some(postgres) = &stack.postgres else { return Ok(None) };
    let counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database \
                   WHERE datname = current_database()";
    Ok(Some(postgres.psql(counted).await?.trim().parse()?))
}
