//! Publishes what owners say and operators decide. It goes through the stream like the callbacks, so
//! that it is applied in order, and again in a replay.

use anyhow::{Context, ensure};
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use shared::bundle::{self, Metadata};
use shared::partition::Partition;

/// One entry of an internal bundle; `by` names its author.
pub(crate) fn entry(by: &str, job_id: &str, received_ms: i64, body: &str) -> Bytes {
    let metadata = Metadata::new(job_id, by, received_ms);
    bundle::encode(&metadata, body.as_bytes())
}

/// Publishes a bundle on a subject of the partition and waits until its stream holds it; returns
/// its sequence there.
///
/// # Errors
/// The stream has not confirmed it. It may hold it all the same.
pub(crate) async fn publish(
    jetstream: &jetstream::Context,
    partition: Partition,
    subject: String,
    payload: Bytes,
) -> anyhow::Result<i64> {
    let stream = partition.stream();
    let message = PublishMessage::build()
        .payload(payload)
        .message_id(uuid::Uuid::new_v4().simple().to_string())
        .expected_stream(&stream)
        .header(bundle::VERSION_HEADER.0, bundle::VERSION_HEADER.1);
    let sent = jetstream.send_publish(subject, message).await?;
    let ack = sent.await.with_context(|| format!("the stream {stream} did not take it"))?;
    ensure!(ack.stream == stream, "the stream {} took what {stream} should have", ack.stream);
    i64::try_from(ack.sequence).context("a sequence out of range")
}
