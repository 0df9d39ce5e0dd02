//! `ackline rebuild`: folds the streams into an empty database, or shows what one job would be.

use std::io::Write;
use std::time::Instant;

use anyhow::bail;
use async_nats::jetstream;
use clap::Args;
use serde_json::json;
use shared::shutdown;
use worker::audit;
use worker::audit::rebuild::rebuild;
use worker::store::audit::Snapshot;
use worker::store::connection::{DatabaseUrl, Purpose};

use super::{SystemArgs, broker, open};
use crate::output::print::{json, printable};
use crate::output::{Bars, Output};

/// `ackline rebuild`.
#[derive(Debug, Args)]
pub struct Rebuild {
    /// Begin with what the streams still hold, although their first messages were purged. The gap
    /// is recorded.
    #[arg(long, conflicts_with = "job")]
    partial: bool,
    /// Fold only this job, and show how it differs from its row. Needs --dry-run.
    #[arg(long, value_name = "ID", requires = "dry_run")]
    job: Option<String>,
    /// Change nothing. Needs --job.
    #[arg(long, requires = "job")]
    dry_run: bool,
    /// The database, an empty one unless --dry-run, and the broker.
    #[command(flatten)]
    system: SystemArgs,
}

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database is not empty, the streams have lost their beginning, or one of them failed.
pub async fn run(args: &Rebuild, bars: &Bars, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (database, servers) = args.system.check()?;
    let shutdown = shutdown::on_signal()?;
    let jetstream = broker(&servers).await?;
    if let Some(id) = &args.job {
        return one_job(args, &database, id, &jetstream, out).await;
    }
    let begun = Instant::now();
    let bar = bars.begin("rebuilding", "messages");
    let rebuilt = rebuild(&database, jetstream, args.partial, &shutdown, &bar.progress).await?;
    drop(bar);
    let counts = rebuilt.counts;
    if args.system.read.json {
        return json(
            out,
            &json!({ "jobs": counts.jobs, "job_events": counts.events,
            "dead_letters": counts.dead_letters, "messages": rebuilt.messages }),
        );
    }
    writeln!(
        out,
        "rebuilt from {} messages in {:.1} s: {} jobs, {} events, {} dead letters",
        rebuilt.messages,
        begun.elapsed().as_secs_f64(),
        counts.jobs,
        counts.events,
        counts.dead_letters
    )?;
    Ok(())
}

async fn one_job(
    args: &Rebuild,
    database: &DatabaseUrl,
    id: &str,
    jetstream: &jetstream::Context,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let db = open(database, Purpose::Read).await?;
    let snapshot = Snapshot::take(&db).await?;
    let found = audit::one_job(&snapshot, jetstream, id).await?;
    if found.would_be.is_none() && found.is.is_none() && found.differences.is_empty() {
        bail!(
            "neither the stream nor the database knows a job {id:?}: check the id, NATS_URL and DATABASE_URL"
        );
    }
    if args.system.read.json {
        return json(out, &found);
    }
    if let Some(job) = &found.would_be {
        super::jobs::show(out, job)?;
    }
    if found.differences.is_empty() {
        writeln!(out, "\nthe database has the same row")?;
    }
    for difference in &found.differences {
        writeln!(out, "differs: {}", printable(difference))?;
    }
    Ok(())
}
