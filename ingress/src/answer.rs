//! The answers of ingress: one success, and every refusal with its status, text and reason.
//!
//! Senders use `curl --retry`, so a permanent fault must not have a retryable status, nor the other
//! way round.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use shared::callback::Malformed;
use shared::listener::body::Unread;

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
    /// The body is in another transfer coding than `chunked` alone.
    TransferCoding,
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
    pub(crate) const ALL: [Self; 18] = [
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ShuttingDown,
        Self::TooMany,
        Self::BrokerDown,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::GaveWay,
        Self::BodyBroken,
        Self::TransferCoding,
        Self::Signature(Refused::Missing),
        Self::Signature(Refused::Malformed),
        Self::Signature(Refused::Wrong),
        Self::Signature(Refused::Scheme),
        Self::Signature(Refused::Replay),
        Self::Malformed(Malformed::Json),
        Self::StreamFull,
        Self::NotConfirmed,
    ];

    /// The status of the answer; the code in logs, on each of which docs/ERRORS.md has a paragraph;
    /// the reason, as a metric's label and in logs; and the error that the answer names.
    fn facts(self) -> (StatusCode, &'static str, &'static str, Cow<'static, str>) {
        let (status, code, reason, error) = match self {
            Self::NotFound => (404, "ACK-601", "not_found", "Not found"),
            Self::MethodNotAllowed => (405, "ACK-602", "method_not_allowed", "Method not allowed"),
            Self::ShuttingDown => (503, "ACK-603", "shutting_down", "Shutting down"),
            Self::TooMany => (503, "ACK-604", "too_many_in_flight", "Too many requests in flight"),
            Self::BrokerDown => (503, "ACK-605", "broker_down", "Broker not available"),
            Self::BodyTooLarge => (413, "ACK-606", "body_too_large", "Body too large"),
            Self::BodyTooSlow => (408, "ACK-607", "body_too_slow", "Body not received in time"),
            Self::GaveWay => (408, "ACK-608", "body_gave_way", "Body not received in time"),
            Self::BodyBroken => (400, "ACK-609", "body_broken", "Body not received"),
            Self::TransferCoding => {
                (400, "ACK-610", "transfer_coding", "Transfer coding not supported")
            }
            Self::Signature(refused) => {
                let (code, reason) = match refused {
                    Refused::Missing => ("ACK-611", "signature_missing"),
                    Refused::Malformed => ("ACK-612", "signature_malformed"),
                    Refused::Wrong => ("ACK-613", "signature_wrong"),
                    Refused::Scheme => ("ACK-614", "scheme_not_allowed"),
                    Refused::Replay => ("ACK-615", "replay_window"),
                };
                (401, code, reason, "Invalid signature")
            }
            Self::Malformed(malformed) => {
                let error = malformed.to_string().into();
                return (StatusCode::BAD_REQUEST, "ACK-616", "malformed", error);
            }
            Self::StreamFull => (503, "ACK-617", "stream_full", "Stream full"),
            Self::NotConfirmed => (503, "ACK-618", "not_confirmed", "Not confirmed in time"),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, code, reason, error.into())
    }

    pub(crate) fn status(self) -> StatusCode {
        self.facts().0
    }

    pub(crate) fn code(self) -> &'static str {
        self.facts().1
    }

    pub(crate) fn reason(self) -> &'static str {
        self.facts().2
    }

    /// The answer that tells the sender.
    pub(crate) fn answer(self) -> Answer {
        let (status, _, _, error) = self.facts();
        let body = serde_json::json!({ "error": error }).to_string();
        let mut answer = json(status, body.into());
        let headers = answer.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
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
            | Self::TransferCoding
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

impl From<Unread> for Refusal {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge => Self::BodyTooLarge,
            Unread::TooSlow => Self::BodyTooSlow,
            Unread::Broken => Self::BodyBroken,
        }
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
            (Refusal::TransferCoding, 400),
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
            assert_eq!(refusal.facts().3, missing.facts().3);
            assert_eq!(refusal.answer().headers(), missing.answer().headers());
            assert_ne!(refusal.reason(), missing.reason());
        }
    }
}
