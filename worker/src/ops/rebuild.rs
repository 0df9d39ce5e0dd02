//! `worker rebuild`: the streams folded into an empty database, by the code that applies them.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use serde_json::json;
use shared::partition::Partition;
use shared::stream;
use shared::trace::Traces;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::print::{json, printable};
use super::{Bars, Output, broker, open};
use crate::audit;
use crate::config::rebuild::Rebuild;
use crate::consumer::micros;
use crate::ownership::{Process, Renewed, own};
use crate::progress::Progress;
use crate::run::{Health, renew};
use crate::store::accept::{self, Skip};
use crate::store::audit::Snapshot;
use crate::store::connection::{self, Purpose};
use crate::store::{partitions, schema};

const LEASE: Duration = Duration::from_secs(10);
const BATCH_MAX: usize = 500;
const POLL: Duration = Duration::from_millis(100);

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database is not empty, the streams have lost their beginning, or one of them fails.
pub async fn run(
    config: Rebuild,
    shutdown: CancellationToken,
    bars: &Bars,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let jetstream = broker(&config.servers).await?;
    if let Some(id) = &config.job {
        return one_job(&config, id, &jetstream, out).await;
    }
    let begun = Instant::now();
    let partitions = stream::check(&jetstream).await.context("the streams can't be used")?;
    let sole_worker = connection::lock(&config.database)?;
    prepare(&config, partitions).await?;
    let db = connection::connect(&config.database, Purpose::Own(LEASE)).await?;
    ensure!(
        schema::is_empty(&db).await?,
        "the database is not empty, and a rebuild fills an empty one; a database that lags behind \
         its streams is brought up to them by `worker run`"
    );
    let ends = begin(&config, &db, &jetstream, partitions).await?;

    let renewals = watch::channel(Renewed::nothing());
    let (health, _status) = watch::channel(Health::default());
    // The renewals notice a lost connection as well, only later.
    let (_nobody_tells, connected) = watch::channel(());
    let process = Arc::new(Process {
        id: uuid::Uuid::new_v4().simple().to_string(),
        db: db.clone(),
        jetstream,
        partitions,
        lease: LEASE,
        batch_max: BATCH_MAX,
        // Dead letters are repeated here, and were decided about by someone.
        dead_letter_limit: i32::MAX,
        replay_horizon: None,
        // What was presumed then is in the streams.
        silence: None,
        alone: sole_worker.is_some(),
        share: Arc::default(),
        renewed: renewals.1,
        connected,
        // What is applied again was traced when it was applied first.
        traces: Traces::off(),
    });
    let stop = shutdown.child_token();
    let owners = TaskTracker::new();
    for partition in Partition::all(partitions) {
        owners.spawn(own(Arc::clone(&process), partition, stop.clone()));
    }
    owners.close();
    let renewing = tokio::spawn(renew(Arc::clone(&process), "rebuild".into(), renewals.0, health));
    let bar = bars.begin("rebuilding", "messages");
    let done = until_applied(&db, &ends, &stop, &bar.progress).await;
    stop.cancel();
    owners.wait().await;
    renewing.abort();
    drop(bar);
    partitions::leave(&db, &process.id).await?;
    done?;

    let counts = schema::counts(&db).await?;
    if config.json {
        return json(
            out,
            &json!({ "jobs": counts.jobs, "job_events": counts.events,
            "dead_letters": counts.dead_letters, "messages": ends.iter().sum::<i64>() }),
        );
    }
    writeln!(
        out,
        "rebuilt from {} messages in {:.1} s: {} jobs, {} events, {} dead letters",
        ends.iter().sum::<i64>(),
        begun.elapsed().as_secs_f64(),
        counts.jobs,
        counts.events,
        counts.dead_letters
    )?;
    Ok(())
}

/// Makes the schema, for the partitions that the streams have.
async fn prepare(config: &Rebuild, partitions: u16) -> anyhow::Result<()> {
    let db = connection::connect(&config.database, Purpose::Migrate)
        .await
        .context("the database can't be reached")?;
    schema::migrate(&db).await?;
    schema::create_partitions(&db, partitions).await?;
    db.close().await.context("the database can't be closed")
}

/// Where each stream ends now. Streams that lost their beginning are refused, or, where that was
/// asked for, begun with what they hold, which puts on record what is gone.
async fn begin(
    config: &Rebuild,
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
    partitions: u16,
) -> anyhow::Result<Vec<i64>> {
    let (mut ends, mut purged) = (Vec::new(), Vec::new());
    for partition in Partition::all(partitions) {
        let info = stream::find(jetstream, partition)
            .await?
            .with_context(|| format!("the stream {partition} is missing"))?;
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        ends.push(i64::try_from(last)?);
        if first > 1 {
            let to_seq = i64::try_from(first)? - 1;
            purged.push((partition, Skip { to_seq, stream_created_at: micros(info.created) }));
        }
    }
    if !config.partial && !purged.is_empty() {
        let list: Vec<String> =
            purged.iter().map(|(at, skip)| format!("{at} up to {}", skip.to_seq)).collect();
        bail!(
            "the streams no longer hold their beginning (partition {}); with --partial the rest \
             is folded, and the jobs that began before are not what they were",
            list.join(", ")
        );
    }
    for (partition, skip) in purged {
        accept::begin_after(db, i32::from(partition.number()), skip).await?;
    }
    Ok(ends)
}

/// Waits until every stream is applied to the end that it had.
async fn until_applied(
    db: &DatabaseConnection,
    ends: &[i64],
    stop: &CancellationToken,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut before: Option<u64> = None;
    loop {
        let rows = schema::partitions(db).await?;
        if let Some(row) = rows.iter().find(|row| row.stopped_reason.is_some()) {
            let reason = row.stopped_reason.as_deref().unwrap_or_default();
            bail!("partition {:02} stopped: {reason}", row.partition);
        }
        let left = rows.iter().zip(ends).map(|(row, end)| Ord::max(end - row.applied_seq, 0));
        let left = left.sum::<i64>().unsigned_abs();
        match before.replace(left) {
            None => progress.remaining(left),
            Some(before) => progress.done(before.saturating_sub(left)),
        }
        if left == 0 {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = stop.cancelled() => bail!("interrupted; `worker run` goes on from here"),
        }
    }
}

async fn one_job(
    config: &Rebuild,
    id: &str,
    jetstream: &jetstream::Context,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let db = open(&config.database, Purpose::Read).await?;
    let snapshot = Snapshot::take(&db).await?;
    let found = audit::one_job(&snapshot, jetstream, id).await?;
    if found.would_be.is_none() && found.is.is_none() && found.differences.is_empty() {
        bail!("neither the stream nor the database knows a job {id:?}");
    }
    if config.json {
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
