//! A message as the broker delivers it to a consumer.

use async_nats::HeaderMap;
use async_nats::jetstream;
use shared::bundle;

use crate::rules::event::{Message, kept_msg_id};

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
        subject: delivered.subject.as_str().into(),
        at: info.published,
        payload: delivered.payload.clone(),
    })
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    Some(headers?.get(name)?.as_str().to_owned())
}
