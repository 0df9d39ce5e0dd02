//! Publishes one bundle until the stream confirms it.

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use shared::bundle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::bundle::Bundle;
use super::ticks::Hindrance;
use crate::link::{State, Up, up};
use crate::metrics;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The outcome of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// The stream has stored it under this sequence.
    Stored { seq: u64 },
    /// The broker has no room for it, and an immediate retry would change nothing.
    Full,
    /// Ingress is shutting down, and there will be no further connection.
    Ended,
    /// Other streams are open now. The closed one may hold it all the same.
    Moved,
}

/// Publishes the bundle until its outcome is known. A caller that no longer waits drops this.
///
/// The stream recognises the id of a bundle that it already has, so sending it again after a
/// timeout or on another connection is harmless.
pub(super) async fn publish(
    bundle: &Bundle,
    link: &mut watch::Receiver<State>,
    hindrance: &Hindrance,
) -> Confirmed {
    let began = Instant::now();
    let mut pause = RETRY_MIN;
    loop {
        let Some(up) = up(link).await else { return Confirmed::Ended };
        if up.layout != bundle.partition.layout() {
            return Confirmed::Moved;
        }
        let left = async |link: &mut watch::Receiver<State>| {
            let same = |state: &State| matches!(state, State::Up(now) if now.is_same(&up));
            // An error means that ingress is shutting down, which is a change as well.
            let _ = link.wait_for(|state| !same(state)).await;
        };
        let failure = tokio::select! {
            biased;
            attempt = attempt(&up, bundle) => match attempt {
                Ok(seq) => {
                    hindrance.end();
                    metrics::confirmed(began.elapsed(), bundle.callbacks);
                    return Confirmed::Stored { seq };
                }
                Err(failure) => failure,
            },
            () = left(link) => continue,
        };
        hindrance.begin();
        let partition = bundle.partition;
        match failure {
            Failure::Full(why) => {
                tracing::warn!(%partition, message_id = %bundle.id, "no room for a bundle: {why}");
                return Confirmed::Full;
            }
            Failure::Unconfirmed(why) => {
                tracing::info!(%partition, message_id = %bundle.id, "trying a bundle again: {why}");
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = left(link) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Why an attempt was not confirmed: the decision what to do now.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The broker has no room.
    Full(String),
    /// Everything else, refused or unknown: retry.
    Unconfirmed(String),
}

/// The sequence, if the stream has confirmed it.
async fn attempt(up: &Up, bundle: &Bundle) -> Result<u64, Failure> {
    let stream = bundle.partition.stream();
    let message = PublishMessage::build()
        .payload(bundle.payload.clone())
        .message_id(&bundle.id)
        .expected_stream(&stream)
        .header(bundle::VERSION_HEADER.0, bundle::VERSION_HEADER.1);
    let sent = up.jetstream.send_publish(bundle.partition.callbacks_subject(), message).await;
    let ack = match sent {
        Ok(sent) => sent.await,
        Err(error) => Err(error),
    }
    .inspect_err(|error| {
        if error.kind() == PublishErrorKind::StreamNotFound {
            up.recheck.notify_one();
        }
    })
    .map_err(|error| Failure::of(&error))?;
    if ack.duplicate {
        metrics::duplicate();
    }
    if ack.stream != stream {
        return Err(Failure::Unconfirmed(format!("the stream {} confirmed it", ack.stream)));
    }
    Ok(ack.sequence)
}

impl Failure {
    fn of(error: &PublishError) -> Self {
        let api = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        match api {
            Some(api) if is_full(api) => Self::Full(api.to_string()),
            Some(api) => Self::Unconfirmed(api.to_string()),
            None => Self::Unconfirmed(error.to_string()),
        }
    }
}

/// Whether the broker has no room, in the stream or on its disk. A failure to store has one code
/// for all reasons; those of a limit say "maximum … exceeded".
fn is_full(error: &jetstream::Error) -> bool {
    match error.error_code() {
        ErrorCode::STREAM_STORE_FAILED => error.to_string().contains("maximum"),
        code => [
            ErrorCode::INSUFFICIENT_RESOURCES,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ]
        .contains(&code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u64, description: &str) -> Failure {
        let error: jetstream::Error = serde_json::from_value(serde_json::json!({
            "code": 503, "err_code": code, "description": description,
        }))
        .unwrap();
        Failure::of(&PublishError::with_source(PublishErrorKind::Other, error))
    }

    #[test]
    fn only_want_of_room_is_refused_at_once() {
        for (code, description, full) in [
            (10077, "maximum bytes exceeded", true),
            (10077, "maximum messages exceeded", true),
            (10077, "unexpected end of file", false),
            (10023, "insufficient resources", true),
            (10047, "insufficient storage resources available", true),
            (10002, "resource limits exceeded for account", true),
            (10008, "JetStream system temporarily unavailable", false),
            (10060, "expected stream does not match", false),
        ] {
            let failure = refused(code, description);
            assert_eq!(matches!(failure, Failure::Full(_)), full, "{failure:?}");
        }
        for kind in [
            PublishErrorKind::TimedOut,
            PublishErrorKind::BrokenPipe,
            PublishErrorKind::StreamNotFound,
        ] {
            let failure = Failure::of(&PublishError::new(kind));
            assert!(matches!(failure, Failure::Unconfirmed(_)), "{failure:?}");
        }
    }
}
