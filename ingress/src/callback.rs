//! One request's way from its head to its answer.
//!
//! Nothing is parsed before the signature holds, and 200 is answered only after the stream has
//! confirmed the callback.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request};
use shared::callback::{Callback, Fields};
use shared::partition::Partition;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, Refusal, received};
use crate::body;
use crate::bundler::{Bundlers, Envelope};
use crate::clock;
use crate::config::Limits;
use crate::link::State;
use crate::measure::{self, InFlight};
use crate::signature::{Keys, verify};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Door {
    keys: Keys,
    limits: Limits,
    link: watch::Receiver<State>,
    bundlers: Arc<Bundlers>,
    in_flight: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Door {
    pub(crate) fn new(
        keys: Keys,
        limits: Limits,
        link: watch::Receiver<State>,
        bundlers: Arc<Bundlers>,
        shutdown: CancellationToken,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(limits.max_in_flight));
        Self { keys, limits, link, bundlers, in_flight, shutdown }
    }

    /// Answers a POST to the callback path, checking in the order of the HTTP contract.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, mut body) = request.into_parts();
        let (partitions, in_flight) = match self.admit() {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse_unread(refusal, &head.headers, body),
        };
        let Limits { max_body_bytes, body_timeout, .. } = self.limits;
        if body::is_declared_larger(&body, max_body_bytes) {
            return refuse_unread(Refusal::BodyTooLarge, &head.headers, body);
        }
        let bytes = match body::read(&mut body, max_body_bytes, body_timeout).await {
            Ok(bytes) => bytes,
            Err(refusal) => {
                if refusal == Refusal::BodyTooLarge {
                    body::drain(body);
                }
                return refuse(refusal);
            }
        };
        match self.take(&head.headers, bytes, partitions, in_flight).await {
            Ok(()) => {
                measure::accepted();
                received()
            }
            Err(refusal) => refuse(refusal),
        }
    }

    /// Lets a request in before its body is read, if it has a chance at all.
    fn admit(&self) -> Result<(u16, InFlight), Refusal> {
        if self.shutdown.is_cancelled() {
            return Err(Refusal::ShuttingDown);
        }
        let permit = Arc::clone(&self.in_flight).try_acquire_owned();
        let in_flight = InFlight::new(permit.map_err(|_| Refusal::TooMany)?);
        match &*self.link.borrow() {
            State::Up(up) => Ok((up.partitions, in_flight)),
            _ => Err(Refusal::BrokerDown),
        }
    }

    /// Verifies a body, makes it a callback, and waits until the stream has it.
    async fn take(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        partitions: u16,
        in_flight: InFlight,
    ) -> Result<(), Refusal> {
        let received = clock::now();
        let verified = verify(&self.keys, headers, body).map_err(|_| Refusal::Signature)?;
        let callback = self.read(verified.body(), received).inspect_err(|refusal| {
            let (key, reason) = (verified.key(), refusal.reason());
            tracing::info!(key, reason, "refused a signed body: {reason}");
        })?;

        let Callback { job_id, event_id, .. } = callback;
        let partition = Partition::of_job(&job_id, partitions);
        let (job, received_ms) = (job_id.clone(), received.timestamp_millis());
        let envelope = Envelope::new(verified, job, event_id, trace_parent(headers), received_ms);
        let confirmation = async {
            let answered = self.bundlers.submit(partition, partitions, envelope, in_flight)?;
            let outcome = timeout(self.limits.publish_deadline, answered).await;
            // Without an answer in time, or from a bundler that has ended, the effect is unknown.
            outcome.ok().and_then(Result::ok).unwrap_or(Err(Refusal::NotConfirmed))
        };
        confirmation.await.inspect_err(|refusal| {
            let reason = refusal.reason();
            tracing::info!(job = job_id, reason, "not confirmed: a callback of job {job_id}");
        })
    }

    fn read(&self, body: &[u8], now: DateTime<Utc>) -> Result<Callback, Refusal> {
        let fields = Fields::parse(body).map_err(Refusal::Malformed)?;
        // A `sent_at` that is no time is refused below, in its turn.
        if let Ok(sent_at) = fields.sent_at() {
            self.limits.replay_window.check(now, sent_at).map_err(|_| Refusal::Replay)?;
        }
        fields.into_callback().map_err(Refusal::Malformed)
    }
}

/// Refuses a request whose body nobody has looked at.
pub(crate) fn refuse_unread(refusal: Refusal, headers: &HeaderMap, body: Incoming) -> Answer {
    let mut answer = refuse(refusal);
    body::leave_unread(&mut answer, headers, body);
    answer
}

fn refuse(refusal: Refusal) -> Answer {
    let reason = refusal.reason();
    measure::refused(reason);
    // Anyone can cause these, so they are logged only for those who look closely.
    tracing::debug!(reason, "refused a request: {reason}");
    refusal.answer()
}

/// The request's W3C trace context, if it is a sound one.
fn trace_parent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.to_str().ok()?;
    let hex = |part: &str, len| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let id = |part: &str, len| hex(part, len) && part.bytes().any(|byte| byte != b'0');
    let mut parts = value.split('-');
    let sound = parts.next() == Some("00")
        && parts.next().is_some_and(|trace| id(trace, 32))
        && parts.next().is_some_and(|span| id(span, 16))
        && parts.next().is_some_and(|flags| hex(flags, 2))
        && parts.next().is_none();
    sound.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::HeaderValue;
    use shared::callback::Malformed;

    use super::*;
    use crate::signature::ReplayWindow;

    fn door(require_timestamp: bool) -> Door {
        let second = Duration::from_secs(1);
        let limits = Limits {
            max_body_bytes: 1024,
            body_timeout: second,
            header_timeout: second,
            publish_deadline: second,
            replay_window: ReplayWindow { window: second * 300, require_timestamp },
            max_connections: 1,
            max_in_flight: 1,
        };
        let link = watch::channel(State::Connecting).1;
        let bundlers = Arc::new(Bundlers::new(link.clone(), 1));
        let keys = Keys::new([("", crate::signature::Secret::new(b"s".into()).unwrap())]);
        Door::new(keys, limits, link, bundlers, CancellationToken::new())
    }

    #[test]
    fn the_replay_window_is_judged_after_the_json_and_before_its_meaning() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let missing = Malformed::MissingJobId;
        for (body, lax, strict) in [
            ("{", Malformed::Json.into(), Malformed::Json.into()),
            (r#"{"sent_at":1}"#, Refusal::Replay, Refusal::Replay),
            (r#"{"sent_at":1700000000}"#, missing.into(), missing.into()),
            ("{}", missing.into(), Refusal::Replay),
            (
                r#"{"job_id":"a","type":"heartbeat","sent_at":"x"}"#,
                Malformed::Field("sent_at").into(),
                Malformed::Field("sent_at").into(),
            ),
        ] {
            assert_eq!(door(false).read(body.as_bytes(), now), Err(lax), "{body}");
            assert_eq!(door(true).read(body.as_bytes(), now), Err(strict), "{body}");
        }
        let sound = br#"{"job_id":"a","type":"heartbeat","sent_at":1700000300}"#;
        assert_eq!(door(true).read(sound, now).unwrap().job_id, "a");
    }

    #[test]
    fn only_a_sound_trace_context_is_passed_on() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("traceparent", HeaderValue::from_str(value).unwrap());
            }
            trace_parent(&headers)
        };
        let sound = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[sound]).as_deref(), Some(sound));
        for unsound in [
            &[][..],
            &[sound, sound],
            &[""],
            &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
            &["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"],
        ] {
            assert_eq!(of(unsound), None, "{unsound:?}");
        }
    }
}
