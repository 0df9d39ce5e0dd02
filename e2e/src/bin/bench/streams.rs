//! Publishing to the streams directly: what the broker and its disk can do, and what is to be
//! applied.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream;
use bytes::{Bytes, BytesMut};
use e2e::nats::publish_bundle;
use e2e::stack::Stack;
use shared::bundle::{self, Metadata};
use shared::partition::{Layout, Partition};
use tokio::task::JoinSet;

use crate::callbacks::heartbeat;
use crate::yardstick::partition_count;

/// Callbacks in a bundle, as a busy ingress makes them.
const PER_BUNDLE: usize = 100;

/// The median time that one small bundle takes to be confirmed when there is nothing else, in
/// milliseconds.
pub(crate) async fn one_at_a_time(stack: &Stack, lasting: Duration) -> Result<f64> {
    let jetstream = jetstream::new(stack.nats.client().await?);
    let payload = entry("single", &heartbeat("single", 0).to_string());
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < lasting {
        let sent = Instant::now();
        publish_bundle(&jetstream, Layout::new(1, 1).first().callbacks_subject(), payload.clone())
            .await?;
        took.push(sent.elapsed());
    }
    took.sort();
    let median = took.get(took.len() / 2).context("nothing was published")?;
    Ok(median.as_secs_f64() * 1000.0)
}

/// A callback as it stands in a bundle.
fn entry(id: &str, body: &str) -> Bytes {
    let metadata = Metadata::new(id, "bench", 1_700_000_000_000);
    bundle::encode(&metadata, body.as_bytes())
}

/// How many messages the streams have taken, and how many bytes they hold.
pub(crate) async fn stored(stack: &Stack) -> Result<(i64, f64)> {
    let jetstream = jetstream::new(stack.nats.client().await?);
    let (mut messages, mut bytes) = (0, 0.0);
    for partition in Layout::new(1, partition_count()).all() {
        let stream = jetstream.get_stream(partition.stream()).await?;
        let state = &stream.cached_info().state;
        messages += i64::try_from(state.last_sequence)?;
        bytes += state.bytes as f64;
    }
    Ok((messages, bytes))
}

/// Puts callbacks into the streams as a busy ingress would: each job's in order, and so many jobs of
/// a partition under way at once, a step further in each round. `body` makes the body of a job's
/// callback of this number, from 0. Returns how many messages the streams hold of it.
pub(crate) async fn fill(
    stack: &Stack,
    jobs: impl IntoIterator<Item = String>,
    at_once: usize,
    per_job: usize,
    body: impl Fn(&str, usize) -> String + Clone + Send + 'static,
) -> Result<i64> {
    let jetstream = jetstream::new(stack.nats.client().await?);
    let mut of_partition = vec![Vec::new(); usize::from(partition_count())];
    for id in jobs {
        let partition = Layout::new(1, partition_count()).of_job(&id);
        of_partition[usize::from(partition.number())].push(id);
    }
    let mut filling = JoinSet::new();
    for (partition, ids) in Layout::new(1, partition_count()).all().zip(of_partition) {
        let (jetstream, body) = (jetstream.clone(), body.clone());
        filling.spawn(async move {
            fill_partition(&jetstream, partition, ids.chunks(at_once), per_job, body).await
        });
    }
    let mut messages = 0;
    while let Some(filled) = filling.join_next().await {
        messages += filled??;
    }
    Ok(messages)
}

async fn fill_partition(
    jetstream: &jetstream::Context,
    partition: Partition,
    rounds: impl Iterator<Item = &[String]>,
    per_job: usize,
    body: impl Fn(&str, usize) -> String,
) -> Result<i64> {
    let (mut messages, mut count, mut payload) = (0, 0, BytesMut::new());
    for ids in rounds {
        for number in 0..per_job {
            for id in ids {
                payload.extend_from_slice(&entry(id, &body(id, number)));
                count += 1;
                if count == PER_BUNDLE {
                    publish_bundle(
                        jetstream,
                        partition.callbacks_subject(),
                        payload.split().freeze(),
                    )
                    .await?;
                    (messages, count) = (messages + 1, 0);
                }
            }
        }
    }
    if count > 0 {
        publish_bundle(jetstream, partition.callbacks_subject(), payload.freeze()).await?;
        messages += 1;
    }
    Ok(messages)
}
