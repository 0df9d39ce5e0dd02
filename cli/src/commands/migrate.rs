//! `ackline migrate`: creates or checks the schema and the streams. The only place that creates.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
    RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{Config, Info};
use clap::Args;
use sea_orm::DatabaseConnection;
use shared::broker::{BrokerArgs, Servers};
use shared::partition::{FIRST_GENERATION, Layout, MAX_PARTITIONS, Partition};
use shared::settings::number;
use shared::stream::{self, DEFAULT_PARTITIONS, Described, Gate};
use tokio::time::Instant;
use worker::entity::partition::Model as Row;
use worker::process::settings::DatabaseArgs;
use worker::store::connection::{DatabaseUrl, Purpose};
use worker::store::schema;

use super::{broker_client, checked, connect};
use crate::streams::{self, Size};

/// How long a cluster may take to choose a leader and to hear of all its servers, as at its start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one answer is waited for: what an election has swallowed never comes.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_secs(1);
const DEFAULT_SIZE: Size = Size { replicas: 1, max_bytes: 1 << 31 };

/// `ackline migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The database.
    #[command(flatten)]
    database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    broker: BrokerArgs,
    /// The streams to create.
    #[command(flatten)]
    streams: Streams,
}

impl Streams {
    /// The size of a stream, where it was said; otherwise this one.
    fn size(&self, otherwise: Size) -> Size {
        Size {
            replicas: self.stream_replicas.unwrap_or(otherwise.replicas),
            max_bytes: self.stream_max_bytes.unwrap_or(otherwise.max_bytes),
        }
    }
}

/// What the streams are to be, where they are not what they are to stay.
#[derive(Debug, Default, Args)]
pub(crate) struct Streams {
    /// How many partitions there are: 2 on a new deployment. `ackline partitions resize` changes it.
    #[arg(long, env = "PARTITIONS", value_parser = |text: &str| number::<u16>(text, 1, MAX_PARTITIONS))]
    partitions: Option<u16>,
    /// Copies of each stream. Without it existing streams keep theirs, and new ones have 1.
    #[arg(long, env = "STREAM_REPLICAS", value_parser = |text: &str| number::<usize>(text, 1, 5))]
    stream_replicas: Option<usize>,
    /// The size limit of each stream, in bytes. Without it existing streams keep theirs, and new
    /// ones have 2147483648 (2 GiB).
    #[arg(long, env = "STREAM_MAX_BYTES", value_parser = |text: &str| number(text, 1 << 20, i64::MAX))]
    stream_max_bytes: Option<i64>,
}

/// Runs the command.
///
/// # Errors
/// What can't be reached, created, or differs in a way that must not be changed.
pub async fn run(args: &Migrate) -> anyhow::Result<()> {
    let (database, servers) = checked(&args.database, &args.broker)?;
    migrate(&database, &servers, &args.streams).await
}

/// Creates or checks the schema and the streams.
pub(super) async fn migrate(
    database: &DatabaseUrl,
    servers: &Servers,
    args: &Streams,
) -> anyhow::Result<()> {
    let db = connect(database, Purpose::Migrate).await?;
    let client = broker_client(servers, "operator").await?;
    let jetstream = ContextBuilder::new().timeout(ANSWER_LIMIT).build(client);

    schema::migrate(&db).await.context("the schema can't be brought up to date")?;
    let deadline = Instant::now() + PATIENCE;
    let layout = loop {
        match create_or_check(args, &db, &jetstream).await {
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                tracing::warn!("trying again: {error:#}");
                tokio::time::sleep(RETRY).await;
            }
            done => break done?,
        }
    };
    schema::create_partitions(&db, layout).await?;
    tracing::info!(partitions = layout.partitions(), "the schema and the streams are ready");
    Ok(())
}

/// Whether a cluster that is not complete yet can be the reason.
fn is_passing(error: &anyhow::Error) -> bool {
    let is_of_cluster = |error: &jetstream::Error| {
        use jetstream::ErrorCode as Code;
        let passing = [
            Code::CLUSTER_NO_PEERS,
            Code::CLUSTER_NOT_ACTIVE,
            Code::CLUSTER_NOT_ASSIGNED,
            Code::CLUSTER_NOT_AVAILABLE,
            Code::CLUSTER_NOT_LEADER,
        ];
        passing.contains(&error.error_code())
    };
    error.chain().any(|cause| {
        if let Some(error) = cause.downcast_ref::<CreateStreamError>() {
            match error.kind() {
                CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable => {
                    true
                }
                CreateStreamErrorKind::JetStream(error) => is_of_cluster(&error),
                _ => false,
            }
        } else if let Some(error) = cause.downcast_ref::<RequestError>() {
            error.kind() == RequestErrorKind::TimedOut
        } else if let Some(error) = cause.downcast_ref::<jetstream::Error>() {
            is_of_cluster(error)
        } else if let Some(error) = cause.downcast_ref::<GetStreamError>() {
            match error.kind() {
                GetStreamErrorKind::Request => true,
                GetStreamErrorKind::JetStream(error) => is_of_cluster(&error),
                _ => false,
            }
        } else {
            false
        }
    })
}

/// Creates or checks the streams; doing it again after a half of it is harmless.
async fn create_or_check(
    args: &Streams,
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
) -> anyhow::Result<Layout> {
    let rows = schema::partitions(db).await?;
    let in_database = schema::layout_of(&rows);
    let layout = choose(args, in_database, jetstream).await?;
    // All are looked at before any is changed.
    let mut found = Vec::new();
    for partition in layout.all() {
        found.push((partition, streams::find(jetstream, partition).await?));
    }
    stream::check_no_more(jetstream, layout).await?;
    let missing = || found.iter().filter(|(_, info)| info.is_none()).map(|(missing, _)| *missing);
    refuse_lost(&rows, missing())?;
    for partition in missing() {
        let size = args.size(DEFAULT_SIZE);
        if let Err(error) = streams::make(jetstream, partition, size, None).await {
            if in_database.is_none() && !is_passing(&error) {
                take_back(jetstream, missing()).await;
            }
            return Err(error);
        }
    }
    let is_open = |(partition, info): &(Partition, Option<Info>)| {
        info.as_ref().is_some_and(|info| Gate::of(&info.config, *partition) == Gate::Open)
    };
    let is_new = in_database.is_none() || found.iter().all(|(_, info)| info.is_none());
    // What `ackline move` has closed stays closed.
    if is_new || found.iter().any(is_open) {
        streams::open(jetstream, layout).await?;
    }
    for info in found.into_iter().filter_map(|(_, info)| info) {
        change(args, jetstream, &info.config.name).await?;
    }
    Ok(layout)
}

/// Deletes what was made of a set that can't be made whole, so that another number of partitions can
/// be chosen.
async fn take_back(jetstream: &jetstream::Context, made: impl Iterator<Item = Partition>) {
    if let Err(error) = streams::delete_empty(jetstream, made).await {
        tracing::warn!("what was made of the streams stays: {error:#}");
    }
}

/// The streams to use: those of the database, those of the broker, or new ones.
async fn choose(
    args: &Streams,
    in_database: Option<Layout>,
    jetstream: &jetstream::Context,
) -> anyhow::Result<Layout> {
    let in_broker = match in_database {
        Some(layout) => stream::find_generation(jetstream, layout.generation()).await?,
        None => newest(jetstream).await?,
    };
    let generation = in_database.or(in_broker.map(|found| found.layout)).map(Layout::generation);
    let partitions = |layout: Layout| layout.partitions();
    let in_database = in_database.map(partitions);
    let mut chosen = in_broker.map(|found| partitions(found.layout)).or(in_database);
    if let (Some(found), None, Some(wanted)) = (in_broker, in_database, args.partitions)
        && found.gate == Gate::Closed
        && wanted != found.layout.partitions()
    {
        // A set that was never made whole.
        streams::delete_empty(jetstream, found.layout.all()).await?;
        chosen = None;
    }
    let chosen = chosen.or(args.partitions).unwrap_or(DEFAULT_PARTITIONS);
    for (who, number) in [("the database has", in_database), ("PARTITIONS says", args.partitions)] {
        if let Some(number) = number.filter(|number| *number != chosen) {
            bail!(
                "ACK-303: there are {chosen} partitions, but {who} {number}: a database and its streams \
                 belong together, and their number is changed with `ackline partitions resize`"
            );
        }
    }
    Ok(Layout::new(generation.unwrap_or(FIRST_GENERATION), chosen))
}

/// The newest generation of which the broker has the first stream, an open one if there is one.
async fn newest(jetstream: &jetstream::Context) -> anyhow::Result<Option<Described>> {
    let mut newest = None;
    let generations = stream::generations(jetstream).await?;
    for generation in generations.into_iter().rev() {
        let found = stream::find_generation(jetstream, generation).await?;
        if found.is_some_and(|found| found.gate == Gate::Open) {
            return Ok(found);
        }
        newest = newest.or(found);
    }
    Ok(newest)
}

/// A stream of which something is applied was there once. An empty one in its place would take
/// callbacks that this database could never apply.
fn refuse_lost(rows: &[Row], missing: impl Iterator<Item = Partition>) -> anyhow::Result<()> {
    for partition in missing {
        let number = i32::from(partition.number());
        let row = rows.iter().find(|row| row.partition == number);
        // Nothing is applied yet of a stream that begins after its predecessor's end.
        let applied = row.filter(|row| row.accepted_seq != Some(row.applied_seq));
        let applied = applied.map_or(0, |row| row.applied_seq);
        if applied > 0 {
            bail!(
                "ACK-206: the stream {} is missing, but the database has applied it up to {applied}: bring \
                 it back, or go on without it with `ackline move --streams-lost`; check NATS_URL and \
                 DATABASE_URL",
                partition.stream()
            );
        }
    }
    Ok(())
}

/// Gives a stream its replicas and size, where they were said.
async fn change(args: &Streams, jetstream: &jetstream::Context, name: &str) -> anyhow::Result<()> {
    let found = jetstream.get_stream(name).await?.cached_info().config.clone();
    let size = args.size(Size { replicas: found.num_replicas, max_bytes: found.max_bytes });
    let Size { replicas, max_bytes } = size;
    let wanted = Config { num_replicas: replicas, max_bytes, ..found.clone() };
    if wanted == found {
        return Ok(());
    }
    jetstream
        .update_stream(wanted)
        .await
        .with_context(|| format!("the stream {name} can't be changed"))?;
    tracing::info!(stream = name, replicas, max_bytes, "changed");
    Ok(())
}
