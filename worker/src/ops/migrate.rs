//! `worker migrate`: creates or checks the schema and the streams. The only place that creates.

use anyhow::{Context, bail};
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use shared::partition::Partition;
use shared::stream::{self, DEFAULT_PARTITIONS};

use crate::config::migrate::Migrate;
use crate::store::connection::{self, Purpose};
use crate::store::schema;

const DEFAULT_REPLICAS: usize = 1;
const DEFAULT_MAX_BYTES: i64 = 256 << 20;

/// Runs the command.
///
/// # Errors
/// What can't be reached, created, or differs in a way that must not be changed.
pub async fn migrate(config: Migrate) -> anyhow::Result<()> {
    let db = connection::connect(&config.database, Purpose::Migrate)
        .await
        .context("the database can't be reached")?;
    let client = config
        .servers
        .connect("operator")
        .await
        .with_context(|| format!("the broker at {} can't be reached", config.servers))?;
    let jetstream = jetstream::new(client);

    schema::migrate(&db).await.context("the schema can't be brought up to date")?;
    let partitions = choose_partitions(&config, &db, &jetstream).await?;
    for partition in Partition::all(partitions) {
        create_or_check(&config, &jetstream, partition, partitions).await?;
    }
    schema::create_partitions(&db, partitions).await?;
    tracing::info!(partitions, "the schema and the streams are ready");
    Ok(())
}

/// The number of partitions is chosen once: by whoever comes first, for ever.
async fn choose_partitions(
    config: &Migrate,
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
            format!("the stream {} exists, but is not Ackline's", info.config.name)
        })?),
    };
    let chosen = in_broker.or(in_database).or(config.partitions).unwrap_or(DEFAULT_PARTITIONS);
    for (who, number) in [("the database has", in_database), ("PARTITIONS says", config.partitions)]
    {
        if let Some(number) = number.filter(|number| *number != chosen) {
            bail!(
                "there are {chosen} partitions, but {who} {number}: their number is chosen once \
                 and can't be changed"
            );
        }
    }
    Ok(chosen)
}

async fn create_or_check(
    config: &Migrate,
    jetstream: &jetstream::Context,
    partition: Partition,
    partitions: u16,
) -> anyhow::Result<()> {
    let name = partition.stream();
    let Some(info) = stream::find(jetstream, partition)
        .await
        .with_context(|| format!("the broker does not describe {name}"))?
    else {
        let replicas = config.replicas.unwrap_or(DEFAULT_REPLICAS);
        let max_bytes = config.max_bytes.unwrap_or(DEFAULT_MAX_BYTES);
        jetstream
            .create_stream(stream::config(partition, partitions, replicas, max_bytes))
            .await
            .with_context(|| format!("the stream {name} can't be created"))?;
        tracing::info!(stream = name, replicas, max_bytes, "created");
        return Ok(());
    };
    let differences = stream::differences(&info.config, partition, partitions);
    if !differences.is_empty() {
        bail!("the stream {name} differs from the contract: {}", differences.join("; "));
    }
    let mut wanted = info.config.clone();
    wanted.num_replicas = config.replicas.unwrap_or(wanted.num_replicas);
    wanted.max_bytes = config.max_bytes.unwrap_or(wanted.max_bytes);
    if wanted != info.config {
        let (replicas, max_bytes) = (wanted.num_replicas, wanted.max_bytes);
        jetstream
            .update_stream(wanted)
            .await
            .with_context(|| format!("the stream {name} can't be changed"))?;
        tracing::info!(stream = name, replicas, max_bytes, "changed");
    }
    Ok(())
}
