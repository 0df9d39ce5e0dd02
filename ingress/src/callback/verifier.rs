//! Where signatures are verified.

use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::answer::Refusal;
use crate::signature::{Keys, Refused, Verified, examine, work_bytes};

/// How much may be hashed on a thread that other requests wait for: 0.6 ms by `benches/verify.rs`,
/// about 4 ms on a processor without instructions for SHA-256.
const INLINE_BYTES: usize = 1 << 20;

/// What was found out about a signature.
pub(super) type Examined = Result<Verified, (Refused, Option<Arc<str>>)>;

/// Verifies at once what is quick, and the rest on threads that no other request waits for.
#[derive(Debug)]
pub(super) struct Verifier {
    /// As many as there are processors.
    long: Arc<Semaphore>,
}

impl Verifier {
    pub(super) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self { long: Arc::new(Semaphore::new(processors)) }
    }

    /// Verifies a body. Without an answer, the process ends.
    pub(super) async fn verify(
        &self,
        keys: Arc<Keys>,
        headers: &HeaderMap,
        body: Bytes,
        now: DateTime<Utc>,
    ) -> Result<Examined, Refusal> {
        if work_bytes(&keys, headers, &body) <= INLINE_BYTES {
            return Ok(examine(&keys, headers, body, now));
        }
        let permit = Arc::clone(&self.long).acquire_owned().await;
        let headers = headers.clone();
        let verifying = spawn_blocking(move || {
            // Kept by the thread: it goes on when its sender has gone.
            let _permit = permit;
            examine(&keys, &headers, body, now)
        });
        verifying.await.map_err(|_| Refusal::ShuttingDown)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::signature::{
        GITHUB_HEADER, MAX_KEYS, PLAIN_HEADER, ReplayWindow, Scheme, SigningKey,
    };

    fn keys(count: usize) -> Arc<Keys> {
        let keys = (0..count)
            .map(|n| (n.to_string(), SigningKey::new(format!("secret-{n}").as_bytes()).unwrap()));
        Arc::new(Keys::new(keys, &Scheme::ALL, ReplayWindow::for_tests()))
    }

    fn signed(names: &[&'static str]) -> HeaderMap {
        let tag =
            |name| if name == GITHUB_HEADER { "sha256=" } else { "" }.to_owned() + &"0".repeat(64);
        names.iter().map(|name| (name.parse().unwrap(), tag(*name).parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn what_takes_long_leaves_the_thread_and_what_is_not_signed_takes_nothing() {
        let verifier = Verifier::new();
        let now = DateTime::UNIX_EPOCH;
        for (is_long, count, headers, bytes) in [
            (false, MAX_KEYS, signed(&[PLAIN_HEADER]), 4096),
            (true, MAX_KEYS, signed(&[PLAIN_HEADER]), 4097),
            (true, MAX_KEYS, signed(&[PLAIN_HEADER, GITHUB_HEADER]), 4096),
            (true, 17, signed(&[PLAIN_HEADER]), 65_536),
            (false, 16, signed(&[PLAIN_HEADER]), 65_536),
            (false, MAX_KEYS, HeaderMap::new(), 65_536),
        ] {
            let is_missing = headers.is_empty();
            let verifying = verifier.verify(keys(count), &headers, vec![b'x'; bytes].into(), now);
            let mut verifying = std::pin::pin!(verifying);
            let at_once = verifying.as_mut().now_or_never();
            assert_eq!(at_once.is_none(), is_long, "{count} keys, {bytes} bytes");
            let examined = match at_once {
                Some(examined) => examined,
                None => verifying.await,
            };
            let refused = examined.unwrap().unwrap_err().0;
            assert_eq!(refused, if is_missing { Refused::Missing } else { Refused::Wrong });
        }
    }
}
