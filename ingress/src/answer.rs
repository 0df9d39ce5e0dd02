//! The answers of ingress: one success, and every refusal with its status, text and reason.
//!
//! Senders use `curl --retry`, so a permanent fault must not have a retryable status, nor the other
//! way round.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use shared::callback::Malformed;

use crate::signature::Refused;

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request is not answered with 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The path is not the callback path.
    NotFound,
    /// The path is the callback path, but the method is not POST.
    MethodNotAllowed,
    /// The process is shutting down.
    ShuttingDown,
    /// `--max-in-flight` requests are in flight.
    TooMany,
    /// There is no usable connection to the broker.
    BrokerDown,
    /// The body exceeds `--max-body-bytes`, as declared or as received.
    BodyTooLarge,
    /// The body did not arrive within `--body-timeout`.
    BodyTooSlow,
    /// The body was slow, and another request needed the slot.
    GaveWay,
    /// The body ended early, or its transfer coding is wrong.
    BodyBroken,
    /// The signature is not accepted. The answer does not say why, so that it reveals nothing.
    Signature(Refused),
    /// The signed body is not a callback.
    Malformed(Malformed),
    /// The broker has no room.
    StreamFull,
    /// No confirmation came by the deadline: the outcome of the callback is unknown.
    NotConfirmed,
}

impl Refusal {
    /// One for each reason, so that all of them are exported before the first refusal.
    pub(crate) const ALL: [Self; 17] = [
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ShuttingDown,
        Self::TooMany,
        Self::BrokerDown,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::GaveWay,
        Self::BodyBroken,
        Self::Signature(Refused::Missing),
        Self::Signature(Refused::Malformed),
        Self::Signature(Refused::Wrong),
        Self::Signature(Refused::Scheme),
        Self::Signature(Refused::Replay),
        Self::Malformed(Malformed::Json),
        Self::StreamFull,
        Self::NotConfirmed,
    ];

    /// The status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow | Self::GaveWay => StatusCode::REQUEST_TIMEOUT,
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::BodyBroken | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::ShuttingDown
            | Self::TooMany
            | Self::BrokerDown
            | Self::StreamFull
            | Self::NotConfirmed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason, as a metric's label and in logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ShuttingDown => "shutting_down",
            Self::TooMany => "too_many_in_flight",
            Self::BrokerDown => "broker_down",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::BodyBroken => "body_broken",
            Self::GaveWay => "body_gave_way",
            Self::Signature(Refused::Missing) => "signature_missing",
            Self::Signature(Refused::Malformed) => "signature_malformed",
            Self::Signature(Refused::Wrong) => "signature_wrong",
            Self::Signature(Refused::Scheme) => "scheme_not_allowed",
            Self::Signature(Refused::Replay) => "replay_window",
            Self::Malformed(_) => "malformed",
            Self::StreamFull => "stream_full",
            Self::NotConfirmed => "not_confirmed",
        }
    }

    /// The code in logs; docs/ERRORS.md has a paragraph on each.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::NotFound => "ACK-601",
            Self::MethodNotAllowed => "ACK-602",
            Self::ShuttingDown => "ACK-603",
            Self::TooMany => "ACK-604",
            Self::BrokerDown => "ACK-605",
            Self::BodyTooLarge => "ACK-606",
            Self::BodyTooSlow => "ACK-607",
            Self::GaveWay => "ACK-608",
            Self::BodyBroken => "ACK-609",
            Self::Signature(Refused::Missing) => "ACK-611",
            Self::Signature(Refused::Malformed) => "ACK-612",
            Self::Signature(Refused::Wrong) => "ACK-613",
            Self::Signature(Refused::Scheme) => "ACK-614",
            Self::Signature(Refused::Replay) => "ACK-615",
            Self::Malformed(_) => "ACK-616",
            Self::StreamFull => "ACK-617",
            Self::NotConfirmed => "ACK-618",
        }
    }

    fn error(self) -> String {
        match self {
            Self::NotFound => "Not found".into(),
            Self::MethodNotAllowed => "Method not allowed".into(),
            Self::ShuttingDown => "Shutting down".into(),
            Self::TooMany => "Too many requests in flight".into(),
            Self::BrokerDown => "Broker not available".into(),
            Self::BodyTooLarge => "Body too large".into(),
            Self::BodyTooSlow | Self::GaveWay => "Body not received in time".into(),
            Self::BodyBroken => "Body not received".into(),
            Self::Signature(_) => "Invalid signature".into(),
            Self::Malformed(malformed) => malformed.to_string(),
            Self::StreamFull => "Stream full".into(),
            Self::NotConfirmed => "Not confirmed in time".into(),
        }
    }

    /// The answer that tells the sender.
    pub(crate) fn answer(self) -> Answer {
        let body = serde_json::json!({ "error": self.error() }).to_string();
        let mut answer = json(self.status(), body.into());
        let headers = answer.headers_mut();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        match self {
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            Self::BodyTooLarge
            | Self::BodyTooSlow
            | Self::GaveWay
            | Self::BodyBroken
            | Self::ShuttingDown => close(&mut answer),
            Self::NotFound
            | Self::TooMany
            | Self::BrokerDown
            | Self::Signature(_)
            | Self::Malformed(_)
            | Self::StreamFull
            | Self::NotConfirmed => {}
        }
        answer
    }
}

/// The answer to a callback that the stream has confirmed.
pub(crate) fn received() -> Answer {
    json(StatusCode::OK, Bytes::from_static(b"{\"received\":true}"))
}

/// Closes the connection after this answer.
pub(crate) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_heal_by_itself_is_retryable() {
        for (refusal, status) in [
            (Refusal::NotFound, 404),
            (Refusal::MethodNotAllowed, 405),
            (Refusal::ShuttingDown, 503),
            (Refusal::TooMany, 503),
            (Refusal::BrokerDown, 503),
            (Refusal::BodyTooLarge, 413),
            (Refusal::BodyTooSlow, 408),
            (Refusal::BodyBroken, 400),
            (Refusal::GaveWay, 408),
            (Refusal::Signature(Refused::Wrong), 401),
            (Refusal::Signature(Refused::Replay), 401),
            (Refusal::Malformed(Malformed::Json), 400),
            (Refusal::StreamFull, 503),
            (Refusal::NotConfirmed, 503),
        ] {
            let answer = refusal.answer();
            assert_eq!(answer.status(), status, "{refusal:?}");
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), status == 503, "{refusal:?}");
            assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        }
    }

    #[test]
    fn whatever_is_wrong_with_a_signature_is_answered_alike() {
        let refused = [Refused::Malformed, Refused::Wrong, Refused::Scheme, Refused::Replay];
        let missing = Refusal::Signature(Refused::Missing);
        for refusal in refused.map(Refusal::Signature) {
            assert_eq!(refusal.error(), missing.error());
            assert_eq!(refusal.answer().headers(), missing.answer().headers());
            assert_ne!(refusal.reason(), missing.reason());
        }
    }
}
