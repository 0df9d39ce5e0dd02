//! What strangers and broken senders send, byte by byte. Each is answered as the contract says, or
//! by the HTTP library, and nothing that is refused reaches the stream.

mod http;
mod json;

use std::net::SocketAddr;

use async_nats::jetstream::stream::Stream;
use e2e::stack::{Builder, Stack};

use crate::expect::*;
use crate::raw::{Raw, answers, head};

const RECEIVED: &str = r#"200 {"received":true}"#;
const NOT_FOUND: &str = r#"404 {"error":"Not found"}"#;

/// Follows what a test says. Its answer shows that the server knows where the request before it has
/// ended, and that the connection goes on.
const BEHIND: &str = "GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// An ingress with all jobs in one stream, and what has been accepted.
struct Door {
    stack: Stack,
    stream: Stream,
    accepted: u64,
}

impl Door {
    async fn open() -> Self {
        Self::of(Stack::builder()).await
    }

    async fn of(builder: Builder) -> Self {
        let stack = builder.partitions(1).start().await.unwrap();
        let stream = first_stream(&stack).await;
        Self { stack, stream, accepted: 0 }
    }

    fn addr(&self) -> SocketAddr {
        self.stack.ingress.addr
    }

    /// The field that signs a body.
    fn signed(&self, body: impl AsRef<[u8]>) -> String {
        format!("X-Signature: {}\r\n", self.stack.sign(body.as_ref()))
    }

    /// A whole request that is accepted.
    fn good(&self) -> String {
        let body = status("j", "queued");
        head(body.len()) + &self.signed(&body) + "\r\n" + &body
    }

    /// Says this on a connection of its own, and hears these answers until the server closes. Only
    /// what is answered with 200 is in the stream, and the next sender is served.
    async fn hears(&mut self, case: &str, said: impl AsRef<[u8]>, expected: &[&str]) {
        let mut raw = Raw::open(self.addr()).await;
        raw.say(said).await;
        assert_eq!(answers(&raw.hear().await), expected, "{case}");
        let accepted = expected.iter().filter(|answer| **answer == RECEIVED).count();
        self.has_stored(case, accepted).await;
    }

    /// Posts a signed body.
    async fn answers(&mut self, case: &str, body: impl Into<Vec<u8>>, expected: &str) {
        let answer = self.stack.post(body.into()).await.unwrap();
        assert_eq!(format!("{} {}", answer.status, answer.text()), expected, "{case}");
        self.has_stored(case, usize::from(expected == RECEIVED)).await;
    }

    async fn has_stored(&mut self, case: &str, more: usize) {
        self.accepted += more as u64;
        let stored = self.stream.get_info().await.unwrap().state.last_sequence;
        assert_eq!(stored, self.accepted, "stored after {case}");
        let mut next = Raw::open(self.addr()).await;
        next.say(BEHIND).await;
        assert_eq!(answers(&next.hear().await), [NOT_FOUND], "the sender after {case}");
    }

    /// Ends a test: the jobs are those that were accepted.
    async fn leaves(&self, ids: &[&str]) {
        let db = self.stack.db().await.unwrap();
        wait_until_applied(&self.stack, &db).await;
        let found: Vec<String> = jobs(&db).await.into_iter().map(|job| job.id).collect();
        assert_eq!(found, ids);
        assert_audited(&self.stack).await;
    }
}
