//! The ops listener.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listener::{self, Limits};
use crate::shutdown::Leaving;
use crate::telemetry::PrometheusHandle;

/// Few and short connections: clients come every few seconds.
pub const LIMITS: Limits = Limits {
    max_connections: 64,
    silence_timeout: Duration::from_secs(10),
    max_header_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(30),
    write_timeout: Duration::from_secs(10),
};

/// Whether the process can do its work: an empty list if it can, otherwise reasons for people, one
/// a line.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The body of an answer: complete, or a stream of events.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Answers every other path.
pub type Rest = Arc<
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

/// For a process without other paths.
#[must_use]
pub fn nothing_else() -> Rest {
    Arc::new(|_| {
        Box::pin(std::future::ready(plain(StatusCode::NOT_FOUND, "not found\n".to_owned())))
    })
}

/// Serves the listener until `shutdown`, outside tests with [`LIMITS`].
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    readiness: Readiness,
    metrics: PrometheusHandle,
    rest: Rest,
    shutdown: CancellationToken,
) {
    let handler = move |request: Request<Incoming>| {
        let answer = answer(&request, &readiness, &metrics);
        let rest = Arc::clone(&rest);
        async move {
            match answer {
                Some(answer) => answer,
                None => rest(request).await,
            }
        }
    };
    let leaving = Leaving::after(&shutdown, Duration::ZERO);
    // Requests in flight then only look at a process that ends.
    let _ = listener::serve("ops", listener, None, limits, handler, leaving).await;
}

/// Answers the paths that both programs have; none for another path.
fn answer(
    request: &Request<Incoming>,
    readiness: &Readiness,
    metrics: &PrometheusHandle,
) -> Option<Response<Body>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, body) = match request.uri().path() {
        "/livez" | "/readyz" | "/metrics" if !is_read => {
            let mut refusal =
                plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(refusal);
        }
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match readiness() {
            reasons if reasons.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        },
        "/metrics" => (StatusCode::OK, metrics.render()),
        _ => return None,
    };
    Some(plain(status, body))
}

fn plain(status: StatusCode, body: String) -> Response<Body> {
    let body = Full::from(body).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;
    use tokio_util::sync::DropGuard;

    use super::*;

    /// Nothing waits for it to pass.
    const SOON: Duration = Duration::from_secs(60);
    const NEVER: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);
    const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    /// One connection at a time, for ever.
    const PATIENT: Limits = Limits {
        max_connections: 1,
        silence_timeout: NEVER,
        max_header_bytes: 16 * 1024,
        header_timeout: NEVER,
        idle_timeout: NEVER,
        write_timeout: NEVER,
    };

    /// Serves, with a long `/readyz`.
    async fn start(limits: Limits) -> (SocketAddr, DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness: Readiness = Arc::new(|| vec!["x".repeat(1 << 20)]);
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, limits, readiness, metrics, nothing_else(), shutdown.clone()));
        (address, shutdown.drop_guard())
    }

    /// Asks for `/livez` and reads the answer, which has no limit in time.
    async fn ask(stream: &mut TcpStream) {
        stream.write_all(GET).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
        }
    }

    async fn ask_anew(address: SocketAddr) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        timeout(SOON, ask(&mut stream)).await.expect("nobody else holds the connection");
    }

    #[tokio::test]
    async fn every_wait_for_the_client_has_its_limit() {
        let unread_body = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
        for (limits, said) in [
            (Limits { silence_timeout: SHORT, ..PATIENT }, &b""[..]),
            (Limits { header_timeout: SHORT, ..PATIENT }, b"G"),
            (Limits { header_timeout: SHORT, ..PATIENT }, b"GET /livez HTTP/1.1\r\nHost: x\r\n"),
            (Limits { idle_timeout: SHORT, ..PATIENT }, GET),
            (Limits { idle_timeout: SHORT, ..PATIENT }, unread_body),
        ] {
            let (address, _serving) = start(limits).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let mut rest = Vec::new();
            let closed = timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "still open after {said:?}");
        }
    }

    #[tokio::test]
    async fn no_limit_is_counted_before_its_time() {
        // Each wait passes the limits of the others.
        let (address, _serving) = start(Limits { header_timeout: SHORT, ..PATIENT }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            tokio::time::sleep(SHORT * 3).await;
            ask(&mut stream).await;
        }
        let short = SHORT * 5;
        let short = Limits { silence_timeout: short, idle_timeout: short, ..PATIENT };
        let (address, _serving) = start(short).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&GET[..5]).await.unwrap();
        tokio::time::sleep(SHORT * 10).await;
        stream.write_all(&GET[5..]).await.unwrap();
        assert_ne!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    }

    #[tokio::test]
    async fn who_does_not_read_is_disconnected() {
        let (address, _serving) = start(Limits { write_timeout: SHORT, ..PATIENT }).await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        // More than the buffers of both sides hold.
        for _ in 0..64 {
            deaf.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        }
        ask_anew(address).await;
    }

    #[tokio::test]
    async fn who_comes_beyond_the_limit_has_the_next_turn() {
        let (address, _serving) = start(PATIENT).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first).await;
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(GET).await.unwrap();
        let early = second.try_read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "there was no slot");
        // However often the first asks, its connection ends: with an answer or between two.
        let mut answers = Vec::new();
        let asking = async {
            while first.write_all(GET).await.is_ok()
                && first.read_buf(&mut answers).await.is_ok_and(|read| read > 0)
            {}
        };
        timeout(SOON, asking).await.expect("its slot is another's");
        timeout(SOON, ask(&mut second)).await.expect("the slot is free");
    }

    #[tokio::test]
    async fn an_idle_slot_is_lost_to_who_comes() {
        let (address, _serving) = start(PATIENT).await;
        for said in [&b""[..], b"GET /li", GET] {
            let mut dawdler = TcpStream::connect(address).await.unwrap();
            dawdler.write_all(said).await.unwrap();
            ask_anew(address).await;
            let mut rest = Vec::new();
            let closed = timeout(SOON, dawdler.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "still open after {said:?}");
        }
    }
}
