//! Decides on a request.
//!
//! Nothing is parsed before the signature holds, and 200 is answered only after the stream has
//! confirmed the callback.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::header::TRANSFER_ENCODING;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request};
use shared::callback::{Callback, Fields};
use shared::eviction::{Slot, Slots};
use shared::listener::body::read as read_body;
use shared::partition::Layout;
use shared::trace::TraceContext;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body;
use super::refusals::SignatureRefusals;
use super::verifier::Verifier;
use crate::answer::{Answer, Refusal, received};
use crate::clock;
use crate::decision_log::DecisionLog;
use crate::link::State;
use crate::metrics::{self, InFlight};
use crate::publish::{Bundlers, Envelope, Stored};
use crate::settings::Limits;
use crate::signature::{Keys, Refused, ReplayWindow, Verified};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Handler {
    keys: watch::Receiver<Arc<Keys>>,
    max_body_bytes: usize,
    body_timeout: Duration,
    publish_deadline: Duration,
    link: watch::Receiver<State>,
    bundlers: Arc<Bundlers>,
    decision_log: DecisionLog,
    in_flight: Slots,
    /// The slots for requests whose body does not arrive with the head: fewer than all, so that
    /// there is always room for those whose body does.
    receiving: Slots,
    verifier: Verifier,
    refusals: SignatureRefusals,
    stopped: CancellationToken,
}

impl Handler {
    /// `keys` may change at any time; each request is verified with the latest. From `stopped` on
    /// no request is admitted.
    pub(crate) fn new(
        keys: watch::Receiver<Arc<Keys>>,
        limits: Limits,
        link: watch::Receiver<State>,
        bundlers: Arc<Bundlers>,
        decision_log: DecisionLog,
        stopped: CancellationToken,
    ) -> Self {
        let Limits { max_body_bytes, body_timeout, publish_deadline, .. } = limits;
        let in_flight = Slots::new(limits.max_in_flight);
        let receiving = Slots::new(limits.max_in_flight - limits.max_in_flight / 4);
        Self {
            keys,
            max_body_bytes,
            body_timeout,
            publish_deadline,
            link,
            bundlers,
            decision_log,
            in_flight,
            receiving,
            verifier: Verifier::new(),
            refusals: SignatureRefusals::default(),
            stopped,
        }
    }

    /// Answers a POST to the callback path, checking in the order of the HTTP contract.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let began = self.decision_log.now();
        let (head, mut body) = request.into_parts();
        if !is_framed_soundly(&head.headers) {
            return refuse_unread(Refusal::TransferCoding, &head.headers, body);
        }
        let (layout, mut in_flight) = match self.admit() {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse_unread(refusal, &head.headers, body),
        };
        if body::is_declared_larger(&body, self.max_body_bytes) {
            return refuse_unread(Refusal::BodyTooLarge, &head.headers, body);
        }
        let bytes = match self.receive(&mut body, &mut in_flight.slot).await {
            Ok(bytes) => bytes,
            Err(Refusal::TooMany) => {
                return refuse_unread(Refusal::TooMany, &head.headers, body);
            }
            Err(refusal) => {
                if refusal == Refusal::BodyTooLarge {
                    body::drain(body);
                }
                return refuse(refusal, &head.headers);
            }
        };
        match self.take(&head, bytes, layout, in_flight, began).await {
            Ok(()) => {
                metrics::accepted();
                received()
            }
            Err(refusal) => refuse(refusal, &head.headers),
        }
    }

    /// Reads a body. Nothing is proved yet, so a slow request gives way to a newcomer.
    async fn receive(&self, body: &mut Incoming, slot: &mut Slot) -> Result<Bytes, Refusal> {
        let mut reading = pin!(read_body(body, self.max_body_bytes, self.body_timeout));
        if let Some(read) = reading.as_mut().now_or_never() {
            return read.map_err(Refusal::from);
        }
        let mut receiving = self.receiving.acquire_or_evict().ok_or(Refusal::TooMany)?;
        let read = slot.idle_until(receiving.idle_until(reading)).await;
        read.and_then(|read| read).map_or(Err(Refusal::GaveWay), |read| read.map_err(Refusal::from))
    }

    /// Admits a request before its body is read, if it can succeed at all.
    fn admit(&self) -> Result<(Layout, InFlight), Refusal> {
        if self.stopped.is_cancelled() {
            return Err(Refusal::ShuttingDown);
        }
        let in_flight = InFlight::new(self.in_flight.acquire_or_evict().ok_or(Refusal::TooMany)?);
        match &*self.link.borrow() {
            State::Up(up) => Ok((up.layout, in_flight)),
            State::Connecting | State::Unreachable(_) | State::Unfit(_) => Err(Refusal::BrokerDown),
        }
    }

    /// Verifies a body, parses the callback, and waits until the stream has it. Its spans, if there
    /// are any, `began` with the request.
    async fn take(
        &self,
        head: &Parts,
        body: Bytes,
        layout: Layout,
        in_flight: InFlight,
        began: Option<SystemTime>,
    ) -> Result<(), Refusal> {
        let received = clock::now();
        let keys = Arc::clone(&*self.keys.borrow());
        let window = keys.window();
        let verified = match self.verifier.verify(keys, &head.headers, body, received).await? {
            Ok(verified) => verified,
            Err((refused, key)) => {
                self.refusals.tell(refused, key.as_deref(), head);
                return Err(Refusal::Signature(refused));
            }
        };
        for (scheme, key) in verified.signers() {
            metrics::verified(scheme, key);
        }
        // From here on the sender is known to have a secret: only such senders make spans.
        let request = self.decision_log.request(trace_parent(&head.headers), began);
        let callback = match read(&verified, window, received) {
            Ok(callback) => callback,
            Err(refusal) => {
                if let Refusal::Signature(refused) = refusal {
                    self.refusals.tell(refused, Some(verified.key()), head);
                }
                request.refused(verified.key(), refusal);
                return Err(refusal);
            }
        };

        let Callback { job_id, event_id, .. } = callback;
        let partition = layout.of_job(&job_id);
        let event_id = event_id.or_else(|| verified.id().map(str::to_owned));
        let (job, received_ms) = (job_id.clone(), received.timestamp_millis());
        let publish = request.publish(partition, &job_id);
        let envelope = Envelope::new(verified, job, event_id, publish.context(), received_ms);
        let confirmation = async {
            let answered = self.bundlers.submit(partition, envelope, in_flight)?;
            let outcome = timeout(self.publish_deadline, answered).await;
            // Without an answer in time, or from a bundler that has ended, the outcome is unknown.
            outcome.ok().and_then(Result::ok).unwrap_or(Err(Refusal::NotConfirmed))
        };
        let outcome = confirmation.await;
        publish.ended(request, partition, &job_id, outcome);
        outcome.map(|Stored { .. }| ())
    }
}

/// Whether the end of the body is where everybody on the way believes it is: by its length, or in
/// chunks and in nothing else.
fn is_framed_soundly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

fn read(
    verified: &Verified,
    window: ReplayWindow,
    now: DateTime<Utc>,
) -> Result<Callback, Refusal> {
    let fields = Fields::parse(verified.body()).map_err(Refusal::Malformed)?;
    let require_timestamp = window.require_timestamp && !verified.is_untimed();
    let window = ReplayWindow { require_timestamp, ..window };
    // A `sent_at` that is not a time is refused below, in its turn.
    if let Ok(sent_at) = fields.sent_at()
        && !window.allows(now, verified.signed_at(), sent_at)
    {
        return Err(Refusal::Signature(Refused::Replay));
    }
    fields.into_callback().map_err(Refusal::Malformed)
}

/// Refuses a request whose body was not read.
pub(crate) fn refuse_unread(refusal: Refusal, headers: &HeaderMap, body: Incoming) -> Answer {
    let mut answer = refuse(refusal, headers);
    body::leave_unread(&mut answer, headers, body);
    answer
}

fn refuse(refusal: Refusal, headers: &HeaderMap) -> Answer {
    let reason = refusal.reason();
    metrics::refused(reason);
    // Anyone can cause these, so they are logged at `debug` only; signatures also by `tell`.
    tracing::debug!(
        reason,
        code = refusal.code(),
        trace_id = trace_parent(headers).map(|trace| tracing::field::display(trace.trace_id())),
        "refused a request: {reason}"
    );
    refusal.answer()
}

/// The request's W3C trace context, if it has exactly one that is valid.
fn trace_parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    TraceContext::parse(value.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use shared::callback::Malformed;

    use super::*;
    use crate::signature::{PLAIN_HEADER, Scheme, SigningKey, verify};

    #[test]
    fn the_replay_window_is_judged_after_the_json_and_before_its_meaning() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let secret = SigningKey::new(b"s").unwrap();
        let lax = ReplayWindow::for_tests();
        let strict = ReplayWindow { require_timestamp: true, ..lax };
        let keys = Keys::new([("", secret.clone())], &Scheme::ALL, lax);
        let read_with = |window, body: &'static str| {
            let mut headers = HeaderMap::new();
            let signature = secret.sign_plain(body.as_bytes());
            headers.insert(PLAIN_HEADER, HeaderValue::from_str(&signature).unwrap());
            let verified = verify(&keys, &headers, Bytes::from(body), now).unwrap();
            read(&verified, window, now)
        };
        let missing = Refusal::Malformed(Malformed::MissingJobId);
        let json = Refusal::Malformed(Malformed::Json);
        let sent_at = Refusal::Malformed(Malformed::Field("sent_at"));
        let replay = Refusal::Signature(Refused::Replay);
        for (body, is_lax, is_strict) in [
            ("{", json, json),
            (r#"{"sent_at":1}"#, replay, replay),
            (r#"{"sent_at":1700000000}"#, missing, missing),
            ("{}", missing, replay),
            (r#"{"job_id":"a","type":"heartbeat","sent_at":"x"}"#, sent_at, sent_at),
        ] {
            assert_eq!(read_with(lax, body), Err(is_lax), "{body}");
            assert_eq!(read_with(strict, body), Err(is_strict), "{body}");
        }
        let sound = r#"{"job_id":"a","type":"heartbeat","sent_at":1700000300}"#;
        assert_eq!(read_with(strict, sound).unwrap().job_id, "a");
    }

    #[test]
    fn only_one_sound_trace_context_is_passed_on() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("traceparent", HeaderValue::from_str(value).unwrap());
            }
            trace_parent(&headers).map(|context| context.to_string())
        };
        let sound = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[sound]).as_deref(), Some(sound));
        for unsound in [&[][..], &[sound, sound], &[""], &[&sound[..54]], &["\u{e9}"]] {
            assert_eq!(of(unsound), None, "{unsound:?}");
        }
    }
}
