//! `ackline audit`: proves that what was accepted is what was applied.

use std::io::Write;

use anyhow::bail;
use serde_json::json;
use worker::audit::{Difference, MAX_ENTRIES, Report, audit};
use worker::rules::transition::RULES_VERSION;
use worker::store::audit::Snapshot;
use worker::store::connection::Purpose;

use super::SystemArgs;
use crate::output::print::{Table, json, printable, text};
use crate::output::{Bars, Output};

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database or the broker cannot be read, or there are differences.
pub async fn run(
    args: &SystemArgs,
    bars: &Bars,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let (db, jetstream) = args.open(Purpose::Read).await?;
    let snapshot = Snapshot::take(&db).await?;
    let bar = bars.begin("auditing", "messages");
    let report = audit(&snapshot, &jetstream, MAX_ENTRIES, &bar.progress).await?;
    drop(bar);
    if args.read.json {
        let mut value = serde_json::to_value(&report)?;
        value["clean"] = json!(report.is_clean());
        json(out, &value)?;
    } else {
        show(out, &report)?;
    }
    match report.differences_total {
        0 => Ok(()),
        1 => bail!("1 difference: what was applied is not what was accepted"),
        many => bail!("{many} differences: what was applied is not what was accepted"),
    }
}

fn show(out: &mut Output<impl Write>, report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(["PARTITION", "FROM", "TO", "MESSAGES", "SKIPPED", "STOPPED"]);
    for covered in &report.partitions {
        table.row([
            format!("{:02}", covered.partition),
            covered.first_seq.to_string(),
            covered.applied_seq.to_string(),
            covered.messages.to_string(),
            covered.skipped.to_string(),
            text(covered.stopped_reason.as_deref()),
        ]);
    }
    table.print(out)?;
    let counts = report.counts;
    writeln!(out)?;
    for (count, what) in [
        (counts.events, "events in the streams, each looked up in the database"),
        (counts.heartbeats, "of them heartbeats"),
        (report.jobs_covered, "jobs folded from their beginning"),
        (
            report.jobs_partly_covered,
            "jobs began before what the streams hold: their events follow each other",
        ),
        (counts.dead, "dead letters wait for a decision"),
        (counts.held, "callbacks are held behind them"),
        (counts.discarded, "callbacks were discarded"),
        (counts.without_job, "heartbeats of jobs that are no longer there"),
    ] {
        writeln!(out, "{count:>10}  {what}")?;
    }
    let other_rules: Vec<String> = report
        .partitions
        .iter()
        .filter(|covered| covered.rules_from_seq > covered.first_seq)
        .map(|covered| format!("{:02} below {}", covered.partition, covered.rules_from_seq))
        .collect();
    if !other_rules.is_empty() {
        writeln!(
            out,
            "\napplied by other rules than version {RULES_VERSION}, and only compared with it: {}",
            other_rules.join(", ")
        )?;
        list(out, "differs, as it may under other rules", &report.other_rules)?;
    }
    if !report.is_clean() {
        writeln!(out)?;
        list(out, "differs", &report.differences)?;
        let more = report.differences_total - report.differences.len() as u64;
        if more > 0 {
            writeln!(out, "and {more} more")?;
        }
    }
    Ok(())
}

fn list(
    out: &mut Output<impl Write>,
    verb: &str,
    differences: &[Difference],
) -> anyhow::Result<()> {
    for difference in differences {
        writeln!(out, "{verb}: {}", printable(&difference.to_string()))?;
    }
    Ok(())
}
