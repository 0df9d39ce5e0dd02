//! Discards bodies, within bounds.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use tokio::time::timeout;

use crate::answer::{Answer, close};

/// How much of an unwanted body is still received, and for how long.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Whether the head alone says that the body is too large.
pub(crate) fn is_declared_larger(body: &impl Body, max_bytes: usize) -> bool {
    body.size_hint().lower() > max_bytes as u64
}

/// Prepares an answer that is sent before the request's body was read.
///
/// A sender that is still writing when the connection is reset may never see the answer, so the
/// body is received and discarded. A sender that asks before it writes (`Expect: 100-continue`)
/// only gets the answer: reading its body would invite it to write.
pub(crate) fn leave_unread(answer: &mut Answer, headers: &HeaderMap, body: Incoming) {
    let mut expected = headers.get_all(EXPECT).iter();
    if expected.any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        close(answer);
    } else {
        drain(body);
    }
}

/// Receives and discards the rest of a body, in the background and within bounds. The connection's
/// task writes the answer meanwhile.
pub(crate) fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(DRAIN_LIMIT, async move {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let taken = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(taken) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }));
}
