//! `ackline move` and `ackline partitions resize`: from one generation of streams to the next, under
//! load.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use clap::Args;
use sea_orm::DatabaseConnection;
use serde::Serialize;
use shared::broker::{BrokerArgs, Servers};
use shared::partition::{Layout, MAX_PARTITIONS};
use shared::settings::{Problems, duration, number};
use shared::stream::{self, ContractError, Described, Gate};
use tokio::time::{Instant, sleep};
use worker::entity::partition::Model as Row;
use worker::generation;
use worker::rules::event::micros;
use worker::rules::stop_reason::StopCode;
use worker::store::connection::Purpose;
use worker::store::generations::{Begin, Ends, NotYet, go_over};
use worker::store::{accept, read, schema};

use super::{SystemArgs, broker_client, connect, open};
use crate::output::Output;
use crate::output::print::json;
use crate::streams::{self, ORIGIN_KEY, Size};

/// First sequences are multiples of this, so that a sequence tells its generation, and no old stream
/// reaches the first sequence of a new one while it is being closed.
const STEP: u64 = 1_000_000_000;
/// How long one answer of the broker is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two looks at how far the workers are.
const POLL: Duration = Duration::from_millis(100);
/// The size of new streams, if the old ones can't be asked and nothing is said.
const LOST_SIZE: Size = Size { replicas: 1, max_bytes: 1 << 31 };
/// How long a node of a cluster may take to learn that a stream is closed.
const SETTLE: Duration = Duration::from_secs(2);

/// `ackline move`.
#[derive(Debug, Args)]
pub struct Move {
    /// The file with the settings of another broker to move to, as lines like
    /// `NATS_URL=nats://10.0.0.7:4222`. Without it the streams stay in their cluster.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// How many partitions there will be. As many as now, unless it is said.
    #[arg(long, value_parser = |text: &str| number::<u16>(text, 1, MAX_PARTITIONS))]
    partitions: Option<u16>,
    /// How to move.
    #[command(flatten)]
    how: How,
}

/// `ackline partitions resize`.
#[derive(Debug, Args)]
pub struct Resize {
    /// How many partitions there will be.
    #[arg(value_parser = |text: &str| number::<u16>(text, 1, MAX_PARTITIONS))]
    partitions: u16,
    /// How to move.
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Copies of each new stream. As many as of the old ones, unless it is said.
    #[arg(long, value_parser = |text: &str| number::<usize>(text, 1, 5))]
    stream_replicas: Option<usize>,
    /// The size limit of each new stream, in bytes. That of the old ones, unless it is said.
    #[arg(long, value_parser = |text: &str| number(text, 1 << 20, i64::MAX))]
    stream_max_bytes: Option<i64>,
    /// The old streams are lost for good: go on without what they held beyond the checkpoints.
    #[arg(long, conflicts_with = "take_back")]
    streams_lost: bool,
    /// Take back a move that was interrupted before the new streams were open.
    #[arg(long)]
    take_back: bool,
    /// In the end, delete the streams of earlier generations in this cluster. A database can't be
    /// rebuilt from them any more.
    #[arg(long, conflicts_with = "take_back")]
    delete_old: bool,
    /// How long to wait until the workers have applied what the old streams hold.
    #[arg(long, default_value = "10m", value_parser = duration)]
    wait: Duration,
    /// Do it. Without this, only print what would be done.
    #[arg(long)]
    yes: bool,
    /// The database, and the broker that has the streams now.
    #[command(flatten)]
    system: SystemArgs,
}

impl How {
    /// The size of the new streams: what was said, else that of the old ones.
    fn size(&self, now: Size) -> Size {
        Size {
            replicas: self.stream_replicas.unwrap_or(now.replicas),
            max_bytes: self.stream_max_bytes.unwrap_or(now.max_bytes),
        }
    }
}

/// Runs `ackline move`.
///
/// # Errors
/// Why it can't be done, or is not finished yet; running it again finishes it.
pub async fn run(args: &Move, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    start(args.to.as_ref(), args.partitions, &args.how, out).await
}

/// Runs `ackline partitions resize`.
///
/// # Errors
/// As of [`run`].
pub async fn resize(args: &Resize, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    start(None, Some(args.partitions), &args.how, out).await
}

/// What is moved, and to where.
#[derive(Debug)]
struct Moving {
    db: DatabaseConnection,
    /// Where the streams are.
    old: Context,
    from: Layout,
    /// Where they go.
    new: Context,
    to: Layout,
    size: Size,
    is_elsewhere: bool,
    /// What there is already of the new ones.
    found: Option<Described>,
    streams_lost: bool,
    /// Tells the streams that this deployment makes from another one's.
    origin: String,
}

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Plan {
    from_generation: u32,
    from_partitions: u16,
    to_generation: u32,
    to_partitions: u16,
    replicas: usize,
    max_bytes: i64,
    done: bool,
}

async fn start(
    to: Option<&PathBuf>,
    partitions: Option<u16>,
    how: &How,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let target = to.map(read_target).transpose()?;
    let (database, servers) = how.system.check()?;
    // Checked before it is opened for writing without a time limit.
    open(&database, Purpose::Read).await?.close().await?;
    let db = connect(&database, Purpose::Migrate).await?;
    let old = operator(&servers).await?;
    let new = match &target {
        Some(servers) => operator(servers).await?,
        None => old.clone(),
    };
    let rows = schema::partitions(&db).await?;
    let from = schema::layout_of(&rows)
        .context("ACK-306: the database has no partitions yet: run `ackline migrate`")?;
    if how.take_back {
        return take_back(&old, &new, from, how, out).await;
    }
    let found = existing(&new, from.generation() + 1).await?;
    let wanted =
        partitions.unwrap_or_else(|| found.map_or(from, |found| found.layout).partitions());
    let is_elsewhere = target.is_some();
    let first = stream::find(&old, from.first()).await?;
    let now = first
        .as_ref()
        .map(|info| Size { replicas: info.config.num_replicas, max_bytes: info.config.max_bytes });
    let size = how.size(now.unwrap_or(LOST_SIZE));
    let is_same = wanted == from.partitions() && Some(size) == now && !is_elsewhere;
    let there = if is_elsewhere { stream::find(&new, from.first()).await? } else { None };
    let is_over = there.is_some_and(|info| {
        rows.iter().any(|row| row.stream_created_at == Some(micros(info.created)))
    });
    if found.is_none() && !how.streams_lost && (is_same || is_over) {
        if how.delete_old && how.yes {
            delete_old(&new, from).await?;
        }
        let generation = from.generation();
        writeln!(out, "nothing to move: there are {wanted} partitions of generation {generation}")?;
        return Ok(());
    }
    let to = Layout::new(from.generation() + 1, wanted);
    let streams_lost = how.streams_lost;
    let origin = match (&first, streams_lost) {
        (Some(info), false) => micros(info.created).to_string(),
        // What has the name of a lost stream may be made anew in the meantime.
        _ => rows
            .iter()
            .filter_map(|row| row.stream_created_at)
            .min()
            .unwrap_or_default()
            .to_string(),
    };
    let moving = Moving { db, old, from, new, to, size, is_elsewhere, found, streams_lost, origin };
    moving.check(&rows).await?;
    let plan = moving.plan(how.yes);
    if how.yes {
        let done = moving.run(how.wait, out).await;
        done.with_context(|| {
            format!("the move to generation {} is not finished: run it again", to.generation())
        })?;
        if how.delete_old {
            delete_old(&moving.new, to).await?;
        }
    }
    if how.system.read.json {
        return json(out, &plan);
    }
    let Plan { replicas, max_bytes, .. } = plan;
    writeln!(
        out,
        "{}: from {} partitions of generation {} to {wanted} of generation {}, with {replicas} \
         copies and at most {max_bytes} bytes each",
        if how.yes { "moved" } else { "with --yes it moves" },
        from.partitions(),
        from.generation(),
        to.generation(),
    )?;
    if !how.yes {
        writeln!(out, "nothing has changed yet")?;
    } else if !how.delete_old {
        writeln!(
            out,
            "the closed streams of generation {} stay for `ackline rebuild`; --delete-old deletes them",
            from.generation()
        )?;
    }
    Ok(())
}

fn read_target(path: &PathBuf) -> anyhow::Result<Servers> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("--to: {name} can't be read"))?;
    let args =
        BrokerArgs::from_lines(&text).map_err(|why| anyhow::anyhow!("--to: {name}: {why}"))?;
    let mut problems = Problems::default();
    let servers = args.check(&mut problems);
    problems.finish(servers).with_context(|| format!("--to: {name}"))
}

async fn operator(servers: &Servers) -> anyhow::Result<Context> {
    let client = broker_client(servers, "operator").await?;
    Ok(ContextBuilder::new().timeout(ANSWER_LIMIT).ack_timeout(ANSWER_LIMIT).build(client))
}

/// What there is of a generation.
async fn existing(jetstream: &Context, generation: u32) -> anyhow::Result<Option<Described>> {
    match stream::describe_generation(jetstream, generation).await {
        Ok(found) => Ok(Some(found)),
        Err(ContractError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn take_back(
    old: &Context,
    new: &Context,
    from: Layout,
    how: &How,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let found = existing(new, from.generation() + 1).await?;
    if let Some(Described { gate: Gate::Open, layout }) = found {
        bail!(
            "the streams of generation {} are open, and callbacks may be there: the move can only be \
             finished, by the same command without --take-back",
            layout.generation()
        );
    }
    if !how.yes {
        writeln!(out, "with --yes the streams of generation {} open again", from.generation())?;
        return Ok(());
    }
    if let Some(found) = found {
        streams::delete_empty(new, found.layout.all()).await?;
    }
    streams::open(old, from).await?;
    writeln!(out, "taken back: the streams of generation {} are open", from.generation())?;
    Ok(())
}

/// Deletes the streams of every generation before this one.
async fn delete_old(jetstream: &Context, now: Layout) -> anyhow::Result<()> {
    for generation in stream::generations(jetstream).await?.range(..now.generation()) {
        streams::delete_closed(jetstream, *generation).await?;
    }
    Ok(())
}

impl Moving {
    fn plan(&self, done: bool) -> Plan {
        Plan {
            from_generation: self.from.generation(),
            from_partitions: self.from.partitions(),
            to_generation: self.to.generation(),
            to_partitions: self.to.partitions(),
            replicas: self.size.replicas,
            max_bytes: self.size.max_bytes,
            done,
        }
    }

    /// Refuses what can't be done, before anything is changed.
    async fn check(&self, rows: &[Row]) -> anyhow::Result<()> {
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
            let found = existing(&self.new, generation).await?;
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

    async fn run(&self, wait: Duration, out: &mut Output<impl Write>) -> anyhow::Result<()> {
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
                let mut config = info.config;
                config.subjects = Gate::Closed.subjects(partition);
                self.old.update_stream(config).await?;
            }
        }
        Ok(())
    }

    /// Waits until the old streams are applied up to their ends, and lets the database go over.
    async fn switch(&self, begins: &[Begin], wait: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + wait;
        let mut told: Option<NotYet> = None;
        loop {
            let ends = match self.streams_lost {
                true => Vec::new(),
                false => generation::ends(&self.old, self.from).await?,
            };
            let over = begins.iter().map(|begin| begin.first_seq).min().unwrap_or(0);
            ensure!(ends.iter().all(|end| *end < over), "the old streams reach the new ones");
            let ends = if self.streams_lost { Ends::Lost } else { Ends::Applied(&ends) };
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
