//! `ackline migrate`: creates or checks the schema and the streams. The only place that creates.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::Config;
use clap::Args;
use sea_orm::DatabaseConnection;
use shared::broker::{BrokerArgs, Servers};
use shared::partition::{MAX_PARTITIONS, Partition};
use shared::settings::number;
use shared::stream::{self, ContractError, DEFAULT_PARTITIONS};
use tokio::time::Instant;
use worker::process::settings::DatabaseArgs;
use worker::store::connection::{DatabaseUrl, Purpose};
use worker::store::schema;

use super::{broker_client, checked, connect};

/// How long a cluster may take to choose a leader and to hear of all its servers, as at its start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one answer is waited for: what an election has swallowed never comes.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_secs(1);
const DEFAULT_REPLICAS: usize = 1;
const DEFAULT_MAX_BYTES: i64 = 1 << 30;

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

/// What the streams are to be, where they are not what they are to stay.
#[derive(Debug, Default, Args)]
pub(crate) struct Streams {
    /// How many partitions there are; chosen once. 4 on a new deployment.
    #[arg(long, env = "PARTITIONS", value_parser = |text: &str| number::<u16>(text, 1, MAX_PARTITIONS))]
    partitions: Option<u16>,
    /// Copies of each stream. Without it existing streams keep theirs, and new ones have 1.
    #[arg(long, env = "STREAM_REPLICAS", value_parser = |text: &str| number::<usize>(text, 1, 5))]
    stream_replicas: Option<usize>,
    /// The size limit of each stream, in bytes. Without it existing streams keep theirs, and new
    /// ones have 1073741824 (1 GiB).
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
    let partitions = loop {
        match create_or_check(args, &db, &jetstream).await {
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                tracing::warn!("trying again: {error:#}");
                tokio::time::sleep(RETRY).await;
            }
            done => break done?,
        }
    };
    schema::create_partitions(&db, partitions).await?;
    tracing::info!(partitions, "the schema and the streams are ready");
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
) -> anyhow::Result<u16> {
    let partitions = choose_partitions(args, db, jetstream).await?;
    // All are looked at before any is changed.
    let mut found = Vec::new();
    for partition in Partition::all(partitions) {
        found.push((partition, find_and_check(jetstream, partition, partitions).await?));
    }
    stream::check_no_more(jetstream, partitions).await?;
    let missing = found.iter().filter(|(_, found)| found.is_none());
    refuse_lost(db, missing.map(|(partition, _)| *partition)).await?;
    for (partition, found) in found {
        match found {
            None => create(args, jetstream, partition, partitions).await?,
            Some(found) => change(args, jetstream, found).await?,
        }
    }
    Ok(partitions)
}

/// The number of partitions is chosen once: by whoever comes first, for ever.
async fn choose_partitions(
    args: &Streams,
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
) -> anyhow::Result<u16> {
    let in_database = match schema::count_partitions(db).await? {
        0 => None,
        rows => Some(u16::try_from(rows).context("the database has too many partitions")?),
    };
    let first = stream::find(jetstream, Partition::new(0))
        .await
        .context("the broker does not describe the streams: is JetStream enabled?")?;
    let in_broker = match &first {
        None => None,
        Some(info) => Some(stream::partitions_of(&info.config).with_context(|| {
            format!(
                "the stream {} exists, but its metadata name no {}: it is not Ackline's, or was \
                 changed",
                info.config.name,
                stream::PARTITIONS_KEY
            )
        })?),
    };
    let chosen = in_broker.or(in_database).or(args.partitions).unwrap_or(DEFAULT_PARTITIONS);
    for (who, number) in [("the database has", in_database), ("PARTITIONS says", args.partitions)] {
        if let Some(number) = number.filter(|number| *number != chosen) {
            bail!(
                "ACK-303: there are {chosen} partitions, but {who} {number}: their number is chosen once \
                 and can't be changed, and a database and its streams belong together"
            );
        }
    }
    Ok(chosen)
}

/// A stream of which something is applied was there once. An empty one in its place would take
/// callbacks that this database could never apply.
async fn refuse_lost(
    db: &DatabaseConnection,
    missing: impl Iterator<Item = Partition>,
) -> anyhow::Result<()> {
    let rows = schema::partitions(db).await?;
    for partition in missing {
        let number = i32::from(partition.number());
        let applied =
            rows.iter().find(|row| row.partition == number).map_or(0, |row| row.applied_seq);
        if applied > 0 {
            bail!(
                "ACK-206: the stream {} is missing, but the database has applied it up to {applied}: bring \
                 it back, or begin with an empty database; check NATS_URL and DATABASE_URL",
                partition.stream()
            );
        }
    }
    Ok(())
}

async fn find_and_check(
    jetstream: &jetstream::Context,
    partition: Partition,
    partitions: u16,
) -> anyhow::Result<Option<Config>> {
    let name = partition.stream();
    let Some(info) = stream::find(jetstream, partition)
        .await
        .with_context(|| format!("the broker does not describe {name}"))?
    else {
        return Ok(None);
    };
    let differences = stream::differences(&info.config, partition, partitions);
    if !differences.is_empty() {
        return Err(ContractError::Differs { stream: name, differences }.into());
    }
    Ok(Some(info.config))
}

async fn create(
    args: &Streams,
    jetstream: &jetstream::Context,
    partition: Partition,
    partitions: u16,
) -> anyhow::Result<()> {
    let name = partition.stream();
    let replicas = args.stream_replicas.unwrap_or(DEFAULT_REPLICAS);
    let max_bytes = args.stream_max_bytes.unwrap_or(DEFAULT_MAX_BYTES);
    jetstream
        .create_stream(stream::config(partition, partitions, replicas, max_bytes))
        .await
        .with_context(|| format!("the stream {name} can't be created"))?;
    tracing::info!(stream = name, replicas, max_bytes, "created");
    Ok(())
}

/// Gives a stream its replicas and size, where they were said.
async fn change(
    args: &Streams,
    jetstream: &jetstream::Context,
    found: Config,
) -> anyhow::Result<()> {
    let mut wanted = found.clone();
    wanted.num_replicas = args.stream_replicas.unwrap_or(wanted.num_replicas);
    wanted.max_bytes = args.stream_max_bytes.unwrap_or(wanted.max_bytes);
    if wanted == found {
        return Ok(());
    }
    let (name, replicas, max_bytes) = (found.name, wanted.num_replicas, wanted.max_bytes);
    jetstream
        .update_stream(wanted)
        .await
        .with_context(|| format!("the stream {name} can't be changed"))?;
    tracing::info!(stream = name, replicas, max_bytes, "changed");
    Ok(())
}
