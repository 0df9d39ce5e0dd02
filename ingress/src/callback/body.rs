//! Reads or discards bodies, within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use tokio::time::timeout;

use crate::answer::{Answer, Refusal, close};

/// How much of an unwanted body is still received, and for how long.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Whether the head alone says that the body is too large.
pub(crate) fn is_declared_larger(body: &impl Body, max_bytes: usize) -> bool {
    body.size_hint().lower() > max_bytes as u64
}

/// Reads the whole body. On a refusal, what is left of it is still in `body`.
pub(crate) async fn read<B>(
    body: &mut B,
    max_bytes: usize,
    limit: Duration,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let reading = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::BodyBroken)?;
            // Trailers are not part of what was signed.
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > max_bytes {
                return Err(Refusal::BodyTooLarge);
            }
            if first.is_empty() && rest.is_empty() {
                // Most bodies come in one piece, which is not copied. Many pieces are: kept as they
                // came, chunks of a byte each would take thirty times their size.
                first = data;
            } else {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    timeout(limit, reading).await.unwrap_or(Err(Refusal::BodyTooSlow))
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// Gives its pieces, then ends or, if it never ends, waits.
    struct Pieces(VecDeque<&'static [u8]>, bool);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    async fn read_pieces(pieces: &[&'static [u8]], ends: bool) -> Result<Bytes, Refusal> {
        let mut body = Pieces(pieces.iter().copied().collect(), ends);
        read(&mut body, 4, Duration::from_secs(1)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_up_to_its_limits() {
        assert_eq!(read_pieces(&[], true).await, Ok(Bytes::new()));
        assert_eq!(read_pieces(&[b"abcd"], true).await, Ok("abcd".into()));
        assert_eq!(read_pieces(&[b"a", b"", b"bc", b"d"], true).await, Ok("abcd".into()));
        assert_eq!(read_pieces(&[b"abcde"], true).await, Err(Refusal::BodyTooLarge));
        assert_eq!(read_pieces(&[b"abcd", b"e"], false).await, Err(Refusal::BodyTooLarge));
        assert_eq!(read_pieces(&[b"abc"], false).await, Err(Refusal::BodyTooSlow));
    }
}
