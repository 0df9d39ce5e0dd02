//! Finds out whether a partition's stream is the applied one, without reading it in order.

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind};
use shared::partition::Partition;

use crate::rules::event::kept_msg_id;
use crate::rules::verdict::{Checkpoint, Description, Message, Verdict, judge};

/// Judges a partition's stream by its description and by the message at the checkpoint.
///
/// # Errors
/// The broker did not return the message; ask again.
pub async fn identify(
    jetstream: &Context,
    partition: Partition,
    info: &Info,
    checkpoint: &Checkpoint<'_>,
) -> anyhow::Result<Verdict> {
    let description = Description::from(info);
    let verdict = judge(checkpoint, &description, Message::NotRead);
    if verdict != Verdict::Believed || !checkpoint.has_message() {
        return Ok(verdict);
    }
    let stream = jetstream.get_stream_no_info(partition.stream()).await?;
    let message = match stream.get_raw_message(checkpoint.applied_seq).await {
        Ok(message) => message,
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
            return Ok(judge(checkpoint, &description, Message::Gone));
        }
        Err(error) => return Err(error.into()),
    };
    let id = message.headers.get(NATS_MESSAGE_ID).map(|id| kept_msg_id(id.as_str()));
    Ok(judge(checkpoint, &description, Message::Id(id.as_deref())))
}
