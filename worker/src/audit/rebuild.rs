//! Folds the streams into an empty database, with the code that applies them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use shared::partition::Partition;
use shared::stream::{self, ContractError};
use shared::trace::Traces;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::progress::Progress;
use crate::partition::lease::Renewed;
use crate::partition::ownership::own;
use crate::partition::renewal::renew;
use crate::partition::turns::turns;
use crate::partition::worker::Worker;
use crate::rules::stop_reason::Mismatch;
use crate::rules::verdict::{Checkpoint, Description, Message, Verdict, judge};
use crate::store::accept::{self, Skip};
use crate::store::connection::{self, DatabaseUrl, Purpose};
use crate::store::schema::Counts;
use crate::store::{partitions, schema};

const LEASE: Duration = Duration::from_secs(10);
const BATCH_MAX: usize = 500;
const POLL: Duration = Duration::from_millis(100);

/// The result of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// How many messages the streams held.
    pub messages: i64,
    /// How many rows resulted.
    pub counts: Counts,
}

/// Applies every stream, up to its current end, to an empty database. If the rebuild may be
/// partial, streams that have lost their beginning start with what they hold, and the gap is
/// recorded. Reports progress in messages.
///
/// # Errors
/// The database is not empty, a stream has lost its beginning or stops, something cannot be
/// reached, or `shutdown` came first: a worker continues from what was applied until then.
pub async fn rebuild(
    database: &DatabaseUrl,
    jetstream: jetstream::Context,
    is_partial: bool,
    shutdown: &CancellationToken,
    progress: &Progress,
) -> anyhow::Result<Rebuilt> {
    let partitions = stream::check(&jetstream).await.context("the streams can't be used")?;
    let sole_worker = connection::lock(database)?;
    prepare(database, partitions).await?;
    let db = connection::connect(database, Purpose::Own(LEASE)).await?;
    ensure!(
        schema::is_empty(&db).await?,
        "the database is not empty, and a rebuild fills an empty one; a database that lags behind \
         its streams is brought up to them by a worker"
    );
    let ends = begin(&db, &jetstream, partitions, is_partial).await?;

    let renewals = watch::channel(Renewed::nothing());
    // The renewals also notice a lost connection, only later.
    let (_nobody_tells, connected) = watch::channel(());
    let worker = Arc::new(Worker {
        id: uuid::Uuid::new_v4().simple().to_string(),
        db: db.clone(),
        jetstream,
        partitions,
        lease: LEASE,
        batch_max: BATCH_MAX,
        // Dead letters are repeated here; somebody decided about them before.
        dead_letter_limit: i32::MAX,
        replay_horizon: None,
        // Earlier presumptions are in the streams.
        silence: None,
        alone: sole_worker.is_some(),
        share: Arc::default(),
        turns: turns(),
        renewed: renewals.1,
        connected,
        // Callbacks were traced when they were first applied.
        traces: Traces::off(),
    });
    let stop = shutdown.child_token();
    let owners = TaskTracker::new();
    for partition in Partition::all(partitions) {
        owners.spawn(own(Arc::clone(&worker), partition, stop.clone()));
    }
    owners.close();
    let renewing = tokio::spawn(renew(Arc::clone(&worker), "rebuild".into(), renewals.0, || {}));
    let done = until_applied(&db, &ends, &stop, progress).await;
    stop.cancel();
    owners.wait().await;
    renewing.abort();
    partitions::leave(&db, &worker.id).await?;
    done?;
    Ok(Rebuilt { messages: ends.iter().sum(), counts: schema::counts(&db).await? })
}

/// Creates the schema, for as many partitions as there are streams.
async fn prepare(database: &DatabaseUrl, partitions: u16) -> anyhow::Result<()> {
    let db = connection::connect(database, Purpose::Migrate)
        .await
        .context("the database can't be reached (--database-url)")?;
    schema::migrate(&db).await?;
    schema::create_partitions(&db, partitions).await?;
    db.close().await.context("the database can't be closed")
}

/// The current end of each stream. Refuses streams that have lost their beginning or, in a partial
/// rebuild, starts with what they hold and records the gap.
async fn begin(
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
    partitions: u16,
    is_partial: bool,
) -> anyhow::Result<Vec<i64>> {
    let (mut ends, mut purged) = (Vec::new(), Vec::new());
    for (partition, row) in Partition::all(partitions).zip(&schema::partitions(db).await?) {
        let missing = || ContractError::Missing(partition.stream());
        let info = stream::find(jetstream, partition).await?.ok_or_else(missing)?;
        let stream = Description::from(&info);
        ends.push(i64::try_from(stream.last_seq)?);
        match judge(&Checkpoint::from(row), &stream, Message::NotRead) {
            Verdict::Believed => {}
            Verdict::NoLeader => return Err(ContractError::NoLeader(partition.stream()).into()),
            Verdict::Differs(Mismatch::Purged { first_seq, .. }) => {
                let to_seq = i64::try_from(first_seq)? - 1;
                purged.push((partition, Skip { to_seq, stream_created_at: stream.created_at }));
            }
            Verdict::Differs(
                mismatch @ (Mismatch::Recreated { .. }
                | Mismatch::LostTail { .. }
                | Mismatch::MessageGone { .. }
                | Mismatch::OtherMessage { .. }),
            ) => bail!("partition {partition}: {mismatch}"),
        }
    }
    if !is_partial && !purged.is_empty() {
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

/// Waits until every stream is applied up to the recorded end.
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
            () = stop.cancelled() => bail!("interrupted; a worker goes on from here"),
        }
    }
}
