//! Reads a whole body, within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::timeout;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It has more bytes than allowed.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// It ended early, or its transfer coding is wrong.
    Broken,
}

/// Reads the whole body.
///
/// # Errors
/// [`Unread`]; what is left of it is still in `body`.
pub async fn read<B>(body: &mut B, max_bytes: usize, limit: Duration) -> Result<Bytes, Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    let reading = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Unread::Broken)?;
            // Trailers are not part of the content.
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > max_bytes {
                return Err(Unread::TooLarge);
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
    timeout(limit, reading).await.unwrap_or(Err(Unread::TooSlow))
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

    async fn read_pieces(pieces: &[&'static [u8]], ends: bool) -> Result<Bytes, Unread> {
        let mut body = Pieces(pieces.iter().copied().collect(), ends);
        read(&mut body, 4, Duration::from_secs(1)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_up_to_its_limits() {
        assert_eq!(read_pieces(&[], true).await, Ok(Bytes::new()));
        assert_eq!(read_pieces(&[b"abcd"], true).await, Ok("abcd".into()));
        assert_eq!(read_pieces(&[b"a", b"", b"bc", b"d"], true).await, Ok("abcd".into()));
        assert_eq!(read_pieces(&[b"abcde"], true).await, Err(Unread::TooLarge));
        assert_eq!(read_pieces(&[b"abcd", b"e"], false).await, Err(Unread::TooLarge));
        assert_eq!(read_pieces(&[b"abc"], false).await, Err(Unread::TooSlow));
    }
}
