//! `ackline move` and `ackline partitions resize`: from one generation of streams to the next, under
//! load.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use clap::Args;
use serde::Serialize;
use shared::broker::{BrokerArgs, Servers};
use shared::partition::{Layout, MAX_PARTITIONS};
use shared::settings::{Problems, duration, number};
use shared::stream::{self, Described, Gate};
use worker::rules::event::micros;
use worker::store::connection::Purpose;
use worker::store::{move_lock, schema};

use super::{SystemArgs, broker_client, connect, open};
use crate::moving::Moving;
use crate::output::Output;
use crate::output::print::json;
use crate::streams::{self, Size};

/// How long one answer of the broker is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The size of new streams, if the old ones can't be asked and nothing is said.
const LOST_SIZE: Size = Size { replicas: 1, max_bytes: 1 << 31 };

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
    let _sole = if how.yes { Some(move_lock::take(&database, &db).await?) } else { None };
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
    let found = stream::find_generation(&new, from.generation() + 1).await?;
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
    let plan = Plan::of(&moving, how.yes);
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

async fn take_back(
    old: &Context,
    new: &Context,
    from: Layout,
    how: &How,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let found = stream::find_generation(new, from.generation() + 1).await?;
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

impl Plan {
    fn of(moving: &Moving, done: bool) -> Self {
        Self {
            from_generation: moving.from.generation(),
            from_partitions: moving.from.partitions(),
            to_generation: moving.to.generation(),
            to_partitions: moving.to.partitions(),
            replicas: moving.size.replicas,
            max_bytes: moving.size.max_bytes,
            done,
        }
    }
}
