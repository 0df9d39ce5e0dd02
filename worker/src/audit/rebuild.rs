//! Folds the streams into an empty database, with the code that applies them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use shared::partition::Layout;
use shared::stream::{self, ContractError};
use shared::trace::Traces;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use crate::generation;
use crate::liveness::Heard;
use crate::partition::consuming::Consuming;
use crate::partition::lease::Renewed;
use crate::partition::turns::turns;
use crate::partition::worker::Worker;
use crate::rules::stop_reason::Mismatch;
use crate::rules::verdict::{Checkpoint, Description, Message, Verdict, judge};
use crate::store::accept::{self, Skip};
use crate::store::connection::{self, DatabaseUrl, Owned, Purpose};
use crate::store::generations::Ends;
use crate::store::schema::Counts;
use crate::store::{generations, partitions, schema};

const LEASE: Duration = Duration::from_secs(10);
const BATCH_MAX: usize = 2000;
const POLL: Duration = Duration::from_millis(100);

/// The result of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// How many messages the streams held.
    pub messages: i64,
    /// How many rows resulted.
    pub counts: Counts,
}

/// Applies every stream, up to its current end, to an empty database, generation by generation. If the rebuild may be
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
    let layouts = layouts(&jetstream).await.context("the streams can't be used")?;
    let Some(first) = layouts.first() else { bail!("the broker has no streams of Ackline") };
    let sole_worker = connection::lock(database)?;
    prepare(database, *first).await?;
    let owned = connection::own(database, LEASE).await?;
    let db = &owned.db.get();
    ensure!(
        schema::is_empty(db).await?,
        "the database is not empty, and a rebuild fills an empty one; a database that lags behind \
         its streams is brought up to them by a worker"
    );
    let mut messages = 0;
    let mut before: Option<(Layout, Vec<i64>)> = None;
    for layout in layouts {
        if let Some((from, ends)) = before {
            let to = generation::begins(&jetstream, layout).await?;
            generations::go_over(db, from, Ends::Applied(&ends), &to).await??;
        }
        let (ends, held) = begin(db, &jetstream, layout, is_partial).await?;
        messages += held;
        let worker = worker(&owned, &jetstream, layout, sole_worker.is_some());
        apply(worker, &ends, shutdown, progress).await?;
        before = Some((layout, ends));
    }
    Ok(Rebuilt { messages, counts: schema::counts(db).await? })
}

/// The generations whose streams are all there, in order: those that were closed by a move, and the
/// one that is open.
async fn layouts(jetstream: &jetstream::Context) -> Result<Vec<Layout>, ContractError> {
    let open = stream::find_open(jetstream, None).await?;
    let mut layouts = Vec::new();
    for generation in stream::generations(jetstream).await?.range(..open.generation()) {
        match stream::find_generation(jetstream, *generation).await? {
            Some(found) => layouts.push(found.layout),
            // It was deleted, or is being deleted.
            None => layouts.clear(),
        }
    }
    for layout in &layouts {
        stream::check(jetstream, *layout).await?;
    }
    layouts.push(open);
    Ok(layouts)
}

/// The means of the owners, without renewals yet.
fn worker(
    owned: &Owned,
    jetstream: &jetstream::Context,
    layout: Layout,
    alone: bool,
) -> (Worker, watch::Sender<Renewed>) {
    let (renewals, renewed) = watch::channel(Renewed::nothing());
    // The renewals also notice a lost connection, only later.
    let (_nobody_tells, connected) = watch::channel(());
    let worker = Worker {
        id: uuid::Uuid::new_v4().simple().to_string(),
        db: owned.db.clone(),
        renewals: owned.renewals.clone(),
        connections: owned.connections.clone(),
        jetstream: jetstream.clone(),
        layout,
        lease: LEASE,
        batch_max: BATCH_MAX,
        // Dead letters are repeated here; somebody decided about them before.
        dead_letter_limit: i32::MAX,
        replay_horizon: None,
        // Earlier presumptions are in the streams.
        silence: None,
        heard: Heard::default(),
        alone,
        share: Arc::default(),
        turns: turns(),
        renewed,
        connected,
        // Callbacks were traced when they were first applied.
        traces: Traces::off(),
    };
    (worker, renewals)
}

/// Applies one generation up to these ends.
async fn apply(
    (worker, renewals): (Worker, watch::Sender<Renewed>),
    ends: &[i64],
    shutdown: &CancellationToken,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (db, id) = (worker.db.clone(), worker.id.clone());
    let mut consuming = Consuming::start(worker, "rebuild".into(), renewals, |_| {}, shutdown);
    let pool = db.get();
    let done = tokio::select! {
        done = until_applied(&pool, ends, shutdown, progress) => done,
        never = consuming.fail() => match never {},
    };
    consuming.end().await;
    partitions::leave(&db.get(), &id).await?;
    done
}

/// Creates the schema, for these streams.
async fn prepare(database: &DatabaseUrl, layout: Layout) -> anyhow::Result<()> {
    let db = connection::connect(database, Purpose::Migrate)
        .await
        .context("the database can't be reached (--database-url)")?;
    schema::migrate(&db).await?;
    schema::create_partitions(&db, layout).await?;
    db.close().await.context("the database can't be closed")
}

/// The current end of each stream, and how many messages there are before the ends. Refuses streams
/// that have lost their beginning or, in a partial rebuild, starts with what they hold and records
/// the gap.
async fn begin(
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
    layout: Layout,
    is_partial: bool,
) -> anyhow::Result<(Vec<i64>, i64)> {
    let (mut ends, mut purged, mut messages) = (Vec::new(), Vec::new(), 0);
    for (partition, row) in layout.all().zip(&schema::partitions(db).await?) {
        let missing = || ContractError::Missing(partition.stream());
        let info = stream::find(jetstream, partition).await?.ok_or_else(missing)?;
        let stream = Description::from(&info);
        let end = i64::try_from(stream.last_seq)?;
        messages += end - row.applied_seq;
        ends.push(end);
        match judge(&Checkpoint::from(row), &stream, Message::NotRead) {
            Verdict::Believed => {}
            Verdict::NoLeader => return Err(ContractError::NoLeader(partition.stream()).into()),
            Verdict::Differs(Mismatch::Purged { first_seq, .. }) => {
                let to_seq = i64::try_from(first_seq)? - 1;
                let from_seq = row.applied_seq + 1;
                messages -= to_seq - row.applied_seq;
                let skip = Skip { to_seq, stream_created_at: stream.created_at };
                purged.push((partition, from_seq, skip));
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
            purged.iter().map(|(at, _, skip)| format!("{at} up to {}", skip.to_seq)).collect();
        bail!(
            "the streams no longer hold their beginning (partition {}); with --partial the rest \
             is folded, and the jobs that began before are not what they were",
            list.join(", ")
        );
    }
    for (partition, from_seq, skip) in purged {
        accept::begin_after(db, i32::from(partition.number()), from_seq, skip).await?;
    }
    Ok((ends, messages))
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
