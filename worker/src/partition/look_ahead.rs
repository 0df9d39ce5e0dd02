//! Finds the orders that streams hold ahead of a checkpoint.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures::StreamExt;
use shared::partition::Partition;
use shared::stream::{self, Gate};

use super::delivered::{self, to_message};
use crate::rules::event::{Content, decode};
use crate::rules::known_refusals::KnownRefusals;

/// A message that is known to be there must come within this time.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// The refusals that orders after a checkpoint name. There are some only if the database was
/// restored or is empty: an order about a dead letter is not sent before the letter is in the
/// database. If the stream is closed, such orders may also be in those of a later generation.
///
/// Orders have a subject of their own. So one request shows that there is none, and a consumer of
/// that subject reads them without the messages in between.
///
/// # Errors
/// The broker does not answer, or not in time.
pub(crate) async fn look_ahead(
    jetstream: &Context,
    stream: &Stream,
    partition: Partition,
    applied_seq: i64,
) -> anyhow::Result<KnownRefusals> {
    let mut known = KnownRefusals::default();
    learn(stream, partition, applied_seq, &mut known).await?;
    if Gate::of(&stream.cached_info().config, partition) == Gate::Closed {
        let generation = partition.layout().generation();
        for later in stream::generations(jetstream).await?.range(generation + 1..) {
            let Some(later) = stream::find_generation(jetstream, *later).await? else { continue };
            for partition in later.layout.all() {
                let stream = jetstream.get_stream_no_info(partition.stream()).await?;
                learn(&stream, partition, 0, &mut known).await?;
            }
        }
    }
    Ok(known)
}

/// Reads the orders of a stream after a checkpoint.
async fn learn<I>(
    stream: &Stream<I>,
    partition: Partition,
    applied_seq: i64,
    known: &mut KnownRefusals,
) -> anyhow::Result<()> {
    let subject = partition.orders_subject();
    let after = u64::try_from(applied_seq).unwrap_or(0) + 1;
    let first = match stream.get_first_raw_message_by_subject(&subject, after).await {
        Ok(message) => i64::try_from(message.sequence)?,
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (consumer, mut messages) = delivered::read(stream, Some(subject), first).await?;
    loop {
        let next = tokio::time::timeout(MESSAGE_LIMIT, messages.next()).await;
        let delivered =
            next.context("the next one does not come")?.context("the consumer ended")??;
        for incoming in decode(&to_message(&delivered)?, partition) {
            if let Content::Order(order) = &incoming.content {
                known.learn(order);
            }
        }
        if delivered.info().map_err(anyhow::Error::from_boxed)?.pending == 0 {
            break;
        }
    }
    drop(messages);
    // If this fails, the broker forgets it by itself.
    let _ = stream.delete_consumer(&consumer).await;
    Ok(())
}
