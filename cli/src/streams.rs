//! Makes, opens, closes and deletes the streams of a generation. The only place that does.
//!
//! Streams are made closed. When all are there, they are opened from the last to the first, so that
//! an open first stream says that all are open; they are closed from the first to the last.

use anyhow::{Context as _, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, Info};
use shared::bundle::END_HEADER;
use shared::partition::{Layout, MAX_PARTITIONS, Partition};
use shared::stream::{self, ContractError, Gate};

/// What is chosen of a stream's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Copies.
    pub(crate) replicas: usize,
    /// The limit, in bytes.
    pub(crate) max_bytes: i64,
}

/// A partition's stream, if there is one, which then keeps the contract.
pub(crate) async fn find(
    jetstream: &Context,
    partition: Partition,
) -> anyhow::Result<Option<Info>> {
    let name = partition.stream();
    let found = stream::find(jetstream, partition).await;
    let found = found.with_context(|| format!("the broker does not describe {name}"))?;
    let Some(info) = found else { return Ok(None) };
    let differences = stream::differences(&info.config, partition);
    if !differences.is_empty() {
        return Err(ContractError::Differs { stream: name, differences }.into());
    }
    Ok(Some(info))
}

/// The stream metadata that tells which deployment has moved to a stream.
pub(crate) const ORIGIN_KEY: &str = "ackline-origin";

/// How a stream begins that is moved to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin<'a> {
    /// Its first sequence.
    pub(crate) first_sequence: u64,
    /// When the first stream of the deployment's previous generation was made.
    pub(crate) origin: &'a str,
}

/// Makes a stream, closed.
pub(crate) async fn make(
    jetstream: &Context,
    partition: Partition,
    size: Size,
    begin: Option<Begin<'_>>,
) -> anyhow::Result<()> {
    let (name, Size { replicas, max_bytes }) = (partition.stream(), size);
    let mut config = Config {
        subjects: Gate::Closed.subjects(partition),
        first_sequence: begin.map(|begin| begin.first_sequence),
        ..stream::config(partition, replicas, max_bytes)
    };
    if let Some(begin) = begin {
        config.metadata.insert(ORIGIN_KEY.to_owned(), begin.origin.to_owned());
    }
    let made = jetstream.create_stream(config).await;
    made.with_context(|| format!("the stream {name} can't be created"))?;
    tracing::info!(stream = name, replicas, max_bytes, "created");
    Ok(())
}

/// Opens the streams of a generation.
pub(crate) async fn open(jetstream: &Context, layout: Layout) -> anyhow::Result<()> {
    let mut all: Vec<_> = layout.all().collect();
    all.reverse();
    set(jetstream, &all, Gate::Open).await
}

/// Closes the streams of a generation: whatever is confirmed there was confirmed before this
/// returns, and stands before a mark.
pub(crate) async fn close(jetstream: &Context, layout: Layout) -> anyhow::Result<()> {
    let all: Vec<_> = layout.all().collect();
    set(jetstream, &all, Gate::Closed).await?;
    for partition in all {
        let name = partition.stream();
        // A leader takes messages in the order in which they come, so that what it was given before
        // has its sequence when the mark has one.
        let mark =
            PublishMessage::build().expected_stream(&name).header(END_HEADER.0, END_HEADER.1);
        let sent = jetstream.send_publish(partition.closed_subject(), mark).await;
        let marked = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        marked.with_context(|| format!("the stream {name} does not take the mark of its end"))?;
    }
    Ok(())
}

async fn set(jetstream: &Context, partitions: &[Partition], gate: Gate) -> anyhow::Result<()> {
    for partition in partitions.iter().copied() {
        let found = find(jetstream, partition).await?;
        let missing = || ContractError::Missing(partition.stream());
        change(jetstream, partition, &found.ok_or_else(missing)?, gate).await?;
    }
    Ok(())
}

/// Opens or closes a stream, if it is not so already.
pub(crate) async fn change(
    jetstream: &Context,
    partition: Partition,
    found: &Info,
    gate: Gate,
) -> anyhow::Result<()> {
    if Gate::of(&found.config, partition) == gate {
        return Ok(());
    }
    let name = partition.stream();
    let wanted = Config { subjects: gate.subjects(partition), ..found.config.clone() };
    let changed = jetstream.update_stream(wanted).await;
    changed.with_context(|| format!("the stream {name} can't be changed"))?;
    tracing::info!(stream = name, ?gate, "changed");
    Ok(())
}

/// Deletes those of these streams that there are, of a set that is not in use, if all are empty.
pub(crate) async fn delete_empty(
    jetstream: &Context,
    partitions: impl IntoIterator<Item = Partition>,
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for partition in partitions {
        let Some(info) = find(jetstream, partition).await? else { continue };
        // Nothing comes after the look that finds it empty.
        change(jetstream, partition, &info, Gate::Closed).await?;
        let name = partition.stream();
        let now = find(jetstream, partition).await?;
        let is_empty = now.is_none_or(|info| info.state.messages == 0);
        ensure!(is_empty, "the stream {name} is not empty: it is not deleted");
        names.push(name);
    }
    delete(jetstream, &names).await
}

/// Deletes what there is of a generation whose streams are closed.
pub(crate) async fn delete_closed(jetstream: &Context, generation: u32) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for partition in Layout::new(generation, MAX_PARTITIONS).all() {
        let Some(info) = stream::find(jetstream, partition).await? else { continue };
        let name = partition.stream();
        let is_closed = Gate::of(&info.config, partition) == Gate::Closed;
        ensure!(is_closed, "the stream {name} is open: it is not deleted");
        names.push(name);
    }
    delete(jetstream, &names).await
}

async fn delete(jetstream: &Context, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let deleted = jetstream.delete_stream(name).await;
        deleted.with_context(|| format!("the stream {name} can't be deleted"))?;
        tracing::info!(stream = name, "deleted");
    }
    Ok(())
}
