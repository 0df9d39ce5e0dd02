//! `ackline prune`: removes old finished jobs of which the streams hold nothing any more, so that a
//! replay of the streams still finds every job that it concerns.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde::Serialize;
use shared::partition::{Layout, Partition};
use shared::settings::duration;
use shared::stream::{self, ContractError};
use worker::partition::identify::identify;
use worker::rules::verdict::Verdict;
use worker::store::connection::Purpose;
use worker::store::prune::{self, Removed};
use worker::store::{read, schema};

use super::SystemArgs;
use crate::output::print::json;
use crate::output::{Bars, Output};

/// `ackline prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// How long a job must not have changed, such as 30d.
    #[arg(long, value_parser = duration)]
    older_than: Duration,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    /// The database, and the broker, whose streams still hold the jobs that are kept.
    #[command(flatten)]
    system: SystemArgs,
}

/// How many jobs of a partition are examined together, and removed in one transaction.
const PAGE: u64 = 500;

#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    older_than: Option<DateTime<Utc>>,
    jobs: u64,
    job_events: u64,
    /// Old enough, but still in a stream or with a dead letter.
    kept: u64,
    /// Why all jobs of a partition are kept.
    kept_partitions: BTreeMap<String, String>,
}

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database or the broker cannot be reached, or failed. What was removed until then stays
/// removed.
pub async fn run(args: &Prune, bars: &Bars, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (db, jetstream) = args.system.open(Purpose::Change).await?;

    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    let rows = schema::partitions(&db).await?;
    let layout = schema::layout_of(&rows).context("the database has no partitions")?;
    let first_stored = first_stored(&jetstream, layout, &rows, &mut report).await?;
    let age = TimeDelta::from_std(args.older_than).context("--older-than is too long")?;
    let cutoff = read::now(&db)
        .await?
        .checked_sub_signed(age)
        .context("--older-than is before the calendar begins")?;
    report.older_than = Some(cutoff);

    let bar = bars.begin("pruning", "jobs");
    if bar.progress.is_heard() {
        bar.progress.remaining(prune::count(&db, cutoff).await?);
    }
    for number in 0..schema::numbers(&db, &rows).await? {
        for status in prune::statuses() {
            let mut after = None;
            loop {
                let part = (number, status);
                let found = prune::candidates(&db, part, cutoff, after.as_ref(), PAGE).await?;
                let Some(last) = found.last().cloned() else { break };
                let count = found.len() as u64;
                let mut of_partition: BTreeMap<Partition, Vec<String>> = BTreeMap::new();
                for job in found {
                    // A finished job's row may still name its partition of an earlier generation.
                    of_partition.entry(layout.of_job(&job.id)).or_default().push(job.id);
                }
                let mut removed = Removed::default();
                for (home, ids) in of_partition {
                    let Some(first) = first_stored.get(&home) else { continue };
                    let part = prune::remove(&db, home, &ids, cutoff, *first, args.dry_run).await?;
                    removed.jobs += part.jobs;
                    removed.events += part.events;
                }
                report.jobs += removed.jobs;
                report.job_events += removed.events;
                report.kept += count - removed.jobs;
                bar.progress.done(count);
                after = Some(last);
            }
        }
    }
    drop(bar);

    if args.system.read.json {
        return json(out, &report);
    }
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    writeln!(out, "{} jobs with {} events {verb}", report.jobs, report.job_events)?;
    if report.kept > 0 {
        writeln!(
            out,
            "{} jobs kept, although old enough: the streams or the dead letters hold something of \
             them",
            report.kept
        )?;
    }
    for (partition, reason) in &report.kept_partitions {
        writeln!(out, "all jobs of partition {partition} kept: {reason}")?;
    }
    Ok(())
}

/// The first sequence that each stream holds. A stream that is not the applied one, or whose
/// description is not believed, says nothing about the positions in the database.
async fn first_stored(
    jetstream: &jetstream::Context,
    layout: Layout,
    rows: &[worker::entity::partition::Model],
    report: &mut Report,
) -> anyhow::Result<HashMap<Partition, i64>> {
    let mut first_stored = HashMap::new();
    for row in rows.iter().filter(|row| row.applied_seq > 0) {
        let Some(partition) = layout.partition(row.partition) else { continue };
        let info = stream::find(jetstream, partition)
            .await
            .with_context(|| format!("the broker does not describe {}", partition.stream()))?;
        let verdict = match &info {
            Some(info) => Some(identify(jetstream, partition, info, &row.into()).await?),
            None => None,
        };
        let reason = match (verdict, info) {
            (Some(Verdict::Believed), Some(info)) => {
                let first = i64::try_from(info.state.first_sequence)?;
                first_stored.insert(partition, first);
                continue;
            }
            (Some(Verdict::Differs(mismatch)), _) => mismatch.to_string(),
            (Some(Verdict::NoLeader), _) => ContractError::NoLeader(partition.stream()).to_string(),
            (Some(Verdict::Believed) | None, _) => {
                ContractError::Missing(partition.stream()).to_string()
            }
        };
        report.kept_partitions.insert(partition.to_string(), reason);
    }
    Ok(first_stored)
}
