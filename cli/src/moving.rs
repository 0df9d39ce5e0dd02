//! A move from one generation of streams to the next: what refuses it, and its steps.
//!
//! There is no state of a move. Each step finds out from the broker and the database what is done.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::Context;
use sea_orm::DatabaseConnection;
use shared::partition::Layout;
use shared::stream::{self, Described, Gate};
use tokio::time::{Instant, sleep};
use worker::entity::partition::Model as Row;
use worker::generation;
use worker::rules::event::micros;
use worker::rules::stop_reason::StopCode;
use worker::store::generations::{Begin, Ends, NotYet, go_over};
use worker::store::{accept, read, schema};

use crate::output::Output;
use crate::streams::{self, ORIGIN_KEY, Size};

/// First sequences are multiples of this, so that a sequence tells its generation, and no old stream
/// reaches the first sequence of a new one while it is being closed.
const STEP: u64 = 1_000_000_000;
/// The pause between two looks at how far the workers are.
const POLL: Duration = Duration::from_millis(100);
/// How long a node of a cluster may take to learn that a stream is closed.
const SETTLE: Duration = Duration::from_secs(2);

/// What is moved, and to where.
#[derive(Debug)]
pub(crate) struct Moving {
    /// The database.
    pub(crate) db: DatabaseConnection,
    /// Where the streams are.
    pub(crate) old: Context,
    /// Those that there are.
    pub(crate) from: Layout,
    /// Where they go.
    pub(crate) new: Context,
    /// Those that there will be.
    pub(crate) to: Layout,
    /// The size of each.
    pub(crate) size: Size,
    /// Whether that is another broker.
    pub(crate) is_elsewhere: bool,
    /// What there is already of the new ones.
    pub(crate) found: Option<Described>,
    /// Whether there are no old ones any more.
    pub(crate) streams_lost: bool,
    /// Tells the streams that this deployment makes from another one's.
    pub(crate) origin: String,
}

impl Moving {
    /// Refuses what can't be done, before anything is changed.
    pub(crate) async fn check(&self, rows: &[Row]) -> anyhow::Result<()> {
        for row in rows {
            let Some(reason) = &row.stopped_reason else { continue };
            let is_of_stream = reason.parse().ok().is_none_or(StopCode::is_of_stream);
            ensure!(
                self.streams_lost && is_of_stream,
                "partition {:02} is stopped: {reason}; let it go on first (docs/ERRORS.md), because \
                 everything must be applied before the streams change",
                row.partition
            );
        }
        if self.streams_lost {
            self.check_lost(rows).await?;
        } else {
            stream::check(&self.old, self.from).await.context("the streams can't be moved")?;
            self.check_workers().await?;
        }
        if let Some(found) = self.found {
            let info = streams::find(&self.new, found.layout.first()).await?;
            let origin = info.as_ref().and_then(|info| info.config.metadata.get(ORIGIN_KEY));
            ensure!(
                origin == Some(&self.origin),
                "the broker has streams of generation {}, which are not of this deployment: use an \
                 account of its own",
                found.layout.generation()
            );
        }
        if let Some(found) = self.found.filter(|found| found.gate == Gate::Open) {
            ensure!(
                found.layout == self.to,
                "a move to {} partitions is under way: finish that first",
                found.layout.partitions()
            );
        }
        if self.is_elsewhere {
            self.check_target().await?;
        }
        Ok(())
    }

    /// Whoever says that streams are lost must not be mistaken.
    async fn check_lost(&self, rows: &[Row]) -> anyhow::Result<()> {
        for (partition, row) in self.from.all().zip(rows) {
            let Some(info) = stream::find(&self.old, partition).await? else { continue };
            let is_applied = row.stream_created_at == Some(micros(info.created));
            ensure!(
                !is_applied || row.stopped_reason.is_some(),
                "the stream {} is not lost: leave out --streams-lost",
                partition.stream()
            );
        }
        Ok(())
    }

    async fn check_workers(&self) -> anyhow::Result<()> {
        let now = read::now(&self.db).await?;
        let workers = accept::workers(&self.db).await?;
        ensure!(
            workers.iter().any(|worker| worker.alive_until >= now),
            "no worker is alive: start one, because workers must apply what the old streams hold"
        );
        Ok(())
    }

    /// Another broker must be able to take what this one takes, and be free for it.
    async fn check_target(&self) -> anyhow::Result<()> {
        let payload = |context: &Context| context.client().server_info().max_payload;
        ensure!(
            payload(&self.new) >= payload(&self.old),
            "the other broker's max_payload of {} is smaller than {}: raise it, or callbacks would be \
             refused",
            payload(&self.new),
            payload(&self.old)
        );
        for generation in stream::generations(&self.new).await? {
            let found = stream::find_generation(&self.new, generation).await?;
            let is_closed = found.is_some_and(|found| found.gate == Gate::Closed);
            let is_ours = generation == self.to.generation();
            ensure!(
                is_ours || (is_closed && generation < self.to.generation()),
                "the other broker has streams of generation {generation} already, perhaps of another \
                 deployment: use an account of its own"
            );
        }
        Ok(())
    }

    /// Moves, or goes on with what was interrupted, and waits for the workers so long.
    pub(crate) async fn run(
        &self,
        wait: Duration,
        out: &mut Output<impl Write>,
    ) -> anyhow::Result<()> {
        if self.found.is_none_or(|found| found.gate == Gate::Closed) {
            // Everything that may fail for want of room or of nodes comes before anything is closed.
            if let Err(error) = self.make().await {
                // Nothing was closed by this attempt, so that nothing needs these.
                if let Err(error) = streams::delete_empty(&self.new, self.to.all()).await {
                    tracing::warn!("what was made of the new streams stays: {error:#}");
                }
                return Err(error);
            }
            self.close_old().await?;
            streams::open(&self.new, self.to).await?;
        }
        writeln!(out, "the new streams are open")?;
        let begins = generation::begins(&self.new, self.to).await?;
        self.switch(&begins, wait).await
    }

    /// Makes the new streams, closed. What there is of an interrupted attempt is empty, and is made
    /// anew where it differs.
    async fn make(&self) -> anyhow::Result<()> {
        if let Some(found) = self.found.filter(|found| found.layout != self.to) {
            streams::delete_empty(&self.new, found.layout.all()).await?;
        }
        let first_sequence = self.first_sequence().await?;
        for partition in self.to.all() {
            let Size { replicas, max_bytes } = self.size;
            if let Some(found) = streams::find(&self.new, partition).await? {
                let config = &found.config;
                let wanted = (replicas, max_bytes, Some(first_sequence));
                if (config.num_replicas, config.max_bytes, config.first_sequence) == wanted {
                    continue;
                }
                streams::delete_empty(&self.new, [partition]).await?;
            }
            let begin = streams::Begin { first_sequence, origin: &self.origin };
            streams::make(&self.new, partition, self.size, Some(begin)).await?;
        }
        Ok(())
    }

    /// Above every sequence of the old streams, by far more than they take until they are closed.
    async fn first_sequence(&self) -> anyhow::Result<u64> {
        let rows = schema::partitions(&self.db).await?;
        let mut last = rows.iter().map(|row| row.applied_seq.unsigned_abs()).max().unwrap_or(0);
        if !self.streams_lost {
            for end in generation::ends(&self.old, self.from).await? {
                last = last.max(end.unsigned_abs());
            }
        }
        Ok(((last + STEP / 2) / STEP + 1) * STEP)
    }

    async fn close_old(&self) -> anyhow::Result<()> {
        if !self.streams_lost {
            streams::close(&self.old, self.from).await?;
            let info = stream::find(&self.old, self.from.first()).await?;
            if info.is_some_and(|info| info.cluster.is_some()) {
                sleep(SETTLE).await;
            }
            return Ok(());
        }
        // Whatever has the names of the lost ones takes nothing any more.
        for partition in self.from.all() {
            if let Some(info) = stream::find(&self.old, partition).await? {
                streams::change(&self.old, partition, &info, Gate::Closed).await?;
            }
        }
        Ok(())
    }

    /// Waits until the old streams are applied up to their ends, and lets the database go over.
    async fn switch(&self, begins: &[Begin], wait: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + wait;
        let mut told: Option<NotYet> = None;
        loop {
            let ends = if self.streams_lost {
                None
            } else {
                Some(generation::ends(&self.old, self.from).await?)
            };
            let over = |end: &i64| begins.iter().all(|begin| *end < begin.first_seq);
            ensure!(ends.iter().flatten().all(over), "the old streams reach the new ones");
            let ends = ends.as_deref().map_or(Ends::Lost, Ends::Applied);
            let Err(not_yet) = go_over(&self.db, self.from, ends, begins).await? else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                bail!("{not_yet}");
            }
            if told.as_ref() != Some(&not_yet) {
                tracing::info!("waiting: {not_yet}");
                told = Some(not_yet);
            }
            sleep(POLL).await;
        }
    }
}
