//! Proves that what was accepted is what was applied: folds the streams and compares the result
//! with one snapshot of the database.
//!
//! Memory is bounded: a partition whose jobs do not fit is read several times, each time for a
//! slice of its jobs.

mod differ;
mod fold;
mod ledger;
mod pass;
pub mod progress;
pub mod rebuild;
mod replay;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use serde::Serialize;

pub use differ::Difference;
pub use fold::Counts;

use self::progress::Progress;
use crate::entity::job::Model as Job;
use crate::entity::partition::Model as Row;
use crate::rules::event::Position;
use crate::rules::transition::RULES_VERSION;
use crate::store::audit::Snapshot;
use crate::store::schema;
use differ::Differences;
use pass::{Again, Context, Slice, Source, pass};

/// How many entries an audit keeps at once: roughly a kilobyte each.
pub const MAX_ENTRIES: usize = 200_000;
/// Jobs that are read at once.
const JOBS: usize = 1000;
/// The most broken chains that are reported.
const BREAKS: u64 = 100;
/// How often a partition is started again because the janitor purged what was about to be read.
const RESTARTS: usize = 5;

/// What an audit found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The differences from the streams: the first of each partition.
    pub differences: Vec<Difference>,
    /// How many differences there are.
    pub differences_total: u64,
    /// Differences in what another version of the rules applied, which are allowed.
    pub other_rules: Vec<Difference>,
    /// Jobs whose rows equal the fold of the stream.
    pub jobs_covered: u64,
    /// Jobs that began before what the streams hold, and whose events follow each other.
    pub jobs_partly_covered: u64,
    /// The counts of all partitions.
    pub counts: Counts,
    /// Partition by partition.
    pub partitions: Vec<Covered>,
    /// Jobs that were folded, by partition.
    #[serde(skip)]
    folded: BTreeMap<i32, i64>,
}

/// The audited part of a partition.
#[derive(Debug, Clone, Serialize)]
pub struct Covered {
    /// Its number.
    pub partition: i32,
    /// The first sequence that the stream holds.
    pub first_seq: i64,
    /// The checkpoint, up to which was audited.
    pub applied_seq: i64,
    /// Messages between the two.
    pub messages: u64,
    /// Messages that an operator let the partition skip.
    pub skipped: u64,
    /// Another version of the rules applied what is below this sequence; 0 if none did.
    pub rules_from_seq: i64,
    /// Why the partition is stopped, if it is.
    pub stopped_reason: Option<String>,
}

impl Report {
    /// Whether there are no differences.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.differences_total == 0
    }

    fn add(&mut self, differences: Differences) {
        self.differences_total += differences.total;
        self.differences.extend(differences.list);
        self.other_rules.extend(differences.other_rules);
    }
}

/// Audits everything, with at most `max_entries` in memory. Reports progress in messages.
///
/// # Errors
/// When the database or the broker fails, or a stream is not the one that was applied.
pub async fn audit(
    snapshot: &Snapshot,
    jetstream: &jetstream::Context,
    max_entries: usize,
    progress: &Progress,
) -> anyhow::Result<Report> {
    let rows = snapshot.partitions().await?;
    let gaps = snapshot.gaps().await?;
    let mut report = Report::default();
    let Some(layout) = schema::layout_of(&rows) else { return Ok(report) };
    let context = Context { snapshot, jetstream, gaps: &gaps, layout, max_entries, progress };
    let sizes = sizes(&context, &rows).await;
    for (index, row) in rows.iter().enumerate() {
        let later = sizes.iter().skip(index + 1).sum();
        audit_partition(&context, row, later, &mut report).await?;
    }
    report.jobs_partly_covered = snapshot.count_jobs().await?.saturating_sub(report.jobs_covered);
    audit_unheard(snapshot, &mut report).await?;
    audit_chains(snapshot, &mut report).await?;
    Ok(report)
}

/// How many messages of each partition there are to read, for whoever wants to know the progress. A
/// stream that can't be described has none here; it fails the audit later, which says why.
async fn sizes(context: &Context<'_>, rows: &[Row]) -> Vec<u64> {
    let mut sizes = Vec::new();
    for row in rows.iter().filter(|_| context.progress.is_heard()) {
        sizes.push(Source::find(context, row).await.map_or(0, |source| source.size()));
    }
    sizes
}

/// What one job would be according to the stream, and what it is.
#[derive(Debug, Serialize)]
pub struct OneJob {
    /// The row that results from the stream up to the checkpoint.
    pub would_be: Option<Job>,
    /// The row that the database has.
    pub is: Option<Job>,
    /// The columns that differ, and the differences in its events and dead letters.
    pub differences: Vec<String>,
}

/// Folds one job.
///
/// # Errors
/// When the database or the broker fails, the stream is not the one that was applied, or it does
/// not hold the job's beginning any more.
pub async fn one_job(
    snapshot: &Snapshot,
    jetstream: &jetstream::Context,
    id: &str,
) -> anyhow::Result<OneJob> {
    let rows = snapshot.partitions().await?;
    let layout = schema::layout_of(&rows)
        .context("the database has no partitions: run `ackline migrate`")?;
    let row = &rows[usize::from(layout.of_job(id).number())];
    let gaps = snapshot.gaps().await?;
    let (max_entries, progress) = (MAX_ENTRIES, &Progress::default());
    let context = Context { snapshot, jetstream, gaps: &gaps, layout, max_entries, progress };
    let source = Source::find(&context, row).await?;
    source.identify(&context, row).await?;
    let is = snapshot.jobs(&[id]).await?.pop();
    if let Some(is) = &is
        && is.first_seq < source.first_seq
    {
        bail!(
            "the job began with message {} of {}, which now begins with {}: it can't be folded",
            is.first_seq,
            source.partition.stream(),
            source.first_seq
        );
    }
    let differences = Differences::new(row.partition, 0);
    let Ok(mut pass) = pass(&context, &source, &Slice::Job(id), differences).await? else {
        bail!("the stream is purged while it is read: try again");
    };
    let would_be = pass.jobs.remove(id);
    let mut differences: Vec<String> =
        pass.differences.list.iter().map(ToString::to_string).collect();
    match (&would_be, &is) {
        (Some(would_be), Some(is)) => differences.extend(differ::columns(would_be, is)),
        (Some(_), None) => differences.push("the database has no such job".into()),
        (None, Some(_)) => differences.push("the stream does not tell of the job".into()),
        (None, None) => {}
    }
    Ok(OneJob { would_be, is, differences })
}

async fn audit_partition(
    context: &Context<'_>,
    row: &Row,
    later: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut slices = 1;
    let mut restarts = 0;
    'begin: while restarts < RESTARTS {
        let source = Source::find(context, row).await?;
        source.identify(context, row).await?;
        // Each slice reads everything, and work in vain counts as done.
        context.progress.remaining(source.size() * slices + later);
        let rules_from_seq = match row.rules_version {
            RULES_VERSION => row.rules_from_seq,
            _ => row.applied_seq + 1,
        };
        let mut found = Differences::new(row.partition, rules_from_seq);
        let mut counts = Counts::default();
        let mut covered = Covered {
            partition: row.partition,
            first_seq: source.first_seq,
            applied_seq: row.applied_seq,
            messages: 0,
            skipped: 0,
            rules_from_seq,
            stopped_reason: row.stopped_reason.clone(),
        };
        let (mut jobs_covered, mut slice) = (0, 0);
        while slice < slices {
            let slice_of = Slice::Part { slice, slices };
            let pass = match pass(context, &source, &slice_of, found.fresh()).await? {
                Ok(pass) => pass,
                Err(Again::Purged) => {
                    restarts += 1;
                    continue 'begin;
                }
                Err(Again::Slices) => {
                    slices *= 2;
                    continue 'begin;
                }
            };
            (covered.messages, covered.skipped) = (pass.messages, pass.skipped);
            jobs_covered += pass.jobs.len() as u64;
            counts.add(pass.counts);
            found.append(pass.differences);
            compare_jobs(context.snapshot, &pass.jobs, &mut found).await?;
            slice += 1;
            if slice == slices && counts.orders != pass.orders {
                let what = format!(
                    "{} orders are recorded as carried out on dead letters that were not there",
                    pass.orders.abs_diff(counts.orders)
                );
                found.push(None, None, &what);
            }
        }
        report.add(found);
        report.counts.add(counts);
        report.jobs_covered += jobs_covered;
        report.folded.insert(row.partition, i64::try_from(jobs_covered)?);
        report.partitions.push(covered);
        return Ok(());
    }
    bail!("partition {:02} is purged faster than it can be read: try again", row.partition)
}

/// Every folded job must have exactly the resulting row.
async fn compare_jobs(
    snapshot: &Snapshot,
    jobs: &HashMap<String, Job>,
    found: &mut Differences,
) -> anyhow::Result<()> {
    let mut ids: Vec<&str> = jobs.keys().map(String::as_str).collect();
    ids.sort_unstable();
    for ids in ids.chunks(JOBS) {
        let rows = snapshot.jobs(ids).await?;
        let rows: HashMap<&str, &Job> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        for id in ids {
            let expected = &jobs[*id];
            let first = Position { seq: expected.first_seq, idx: expected.first_idx };
            match rows.get(id) {
                None => found.add(first, Some(id), "has no row in jobs"),
                Some(row) if *row != expected => {
                    let columns = differ::columns(expected, row).join("; ");
                    found.value(first, id, &format!("its row in jobs differs: {columns}"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Every job whose row says that it began within what the streams hold must have been folded; there
/// must be no other.
async fn audit_unheard(snapshot: &Snapshot, report: &mut Report) -> anyhow::Result<()> {
    let from: Vec<(i32, i64)> =
        report.partitions.iter().map(|covered| (covered.partition, covered.first_seq)).collect();
    let counted: BTreeMap<i32, i64> =
        snapshot.count_first_heard(&from).await?.into_iter().collect();
    for (number, first_seq) in from {
        let counted = counted.get(&number).copied().unwrap_or(0);
        let folded = report.folded.get(&number).copied().unwrap_or(0);
        if counted != folded {
            let mut differences = Differences::new(number, 0);
            let what = format!(
                "{counted} jobs say that they began at or after sequence {first_seq}, but the \
                 stream tells of {folded}"
            );
            differences.push(None, None, &what);
            report.add(differences);
        }
    }
    Ok(())
}

/// Each job's events must follow each other and lead to its status.
async fn audit_chains(snapshot: &Snapshot, report: &mut Report) -> anyhow::Result<()> {
    for found in snapshot.breaks(BREAKS).await? {
        let text = |status: &Option<String>| status.clone().unwrap_or_else(|| "nothing".into());
        let mut what = Vec::new();
        if found.before != found.from_status {
            what.push(format!(
                "says that the job was {}, but the event before it led to {}",
                text(&found.from_status),
                text(&found.before)
            ));
        }
        if found.is_last && found.to_status != found.status {
            what.push(format!(
                "is the job's last event and led to {}, but the job is {}",
                text(&found.to_status),
                text(&found.status)
            ));
        }
        let mut differences = Differences::new(found.partition, 0);
        let position = Position { seq: found.seq, idx: found.idx };
        differences.add(position, Some(&found.job_id), &what.join("; "));
        report.add(differences);
    }
    for (partition, job_id) in snapshot.without_events(BREAKS).await? {
        let mut differences = Differences::new(partition, 0);
        differences.push(None, Some(&job_id), "has no event");
        report.add(differences);
    }
    Ok(())
}
