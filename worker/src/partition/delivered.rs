//! Messages as the broker delivers them to a consumer.

use std::time::Duration;

use anyhow::Context;
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use shared::bundle::{self, END_HEADER};

use crate::rules::event::{Message, kept_msg_id};

/// The broker forgets the consumer of a reader that crashed after this time.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(60);
/// The most that a pull may bring.
const PULL_MESSAGES: usize = 2000;
const PULL_BYTES: usize = 8 * 1024 * 1024;

/// Makes a consumer that reads from a sequence on, of all subjects or of one, and acks nothing. For
/// reading only, never for applying. Returns its name and its messages; delete it in the end.
///
/// # Errors
/// The broker does not make it.
pub(crate) async fn read<I>(
    stream: &Stream<I>,
    subject: Option<String>,
    from: i64,
) -> anyhow::Result<(String, Messages)> {
    let consumer = format!("reader-{}", uuid::Uuid::new_v4().simple());
    let messages = stream
        .create_consumer(Config {
            name: Some(consumer.clone()),
            filter_subject: subject.unwrap_or_default(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: u64::try_from(from)? },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE_THRESHOLD,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        })
        .await
        .context("the stream can't be read")?
        .stream()
        .max_messages_per_batch(PULL_MESSAGES)
        .max_bytes_per_batch(PULL_BYTES)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(5))
        .messages()
        .await
        .context("the stream can't be read")?;
    Ok((consumer, messages))
}

/// What the rules need of a message.
///
/// # Errors
/// The message has no position in a stream.
pub(crate) fn to_message(delivered: &jetstream::Message) -> anyhow::Result<Message> {
    let info = delivered.info().map_err(|error| anyhow::anyhow!(error))?;
    let headers = delivered.headers.as_ref();
    Ok(Message {
        seq: i64::try_from(info.stream_sequence)?,
        msg_id: header(headers, async_nats::header::NATS_MESSAGE_ID.as_ref())
            .map(|id| kept_msg_id(&id)),
        version: header(headers, bundle::VERSION_HEADER.0),
        is_end: header(headers, END_HEADER.0).as_deref() == Some(END_HEADER.1),
        subject: delivered.subject.as_str().into(),
        at: info.published,
        payload: delivered.payload.clone(),
    })
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    Some(headers?.get(name)?.as_str().to_owned())
}
