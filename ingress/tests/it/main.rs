//! What a served ingress answers while it has no broker.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ingress::settings::{Cli, Config};
use metrics_exporter_prometheus::PrometheusBuilder;
use shared::settings::Problems;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

struct Served {
    address: std::net::SocketAddr,
    ops: std::net::SocketAddr,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), ingress::ServeError>>,
}

fn config(args: &[&str]) -> Config {
    // Nothing can listen on port 0, so the broker is unreachable.
    let args = [&["ingress", "--nats-url=nats://127.0.0.1:0"], args].concat();
    let secret = |name: &str| (name == "CALLBACK_SECRET").then(|| "never-log-this-secret".into());
    let config = Cli::try_parse_from(args).unwrap().serve.check(&mut Problems::default(), secret);
    config.unwrap()
}

async fn serve(args: &[&str]) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ops_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, ops) = (listener.local_addr().unwrap(), ops_listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let serving = ingress::serve(
        config(args),
        listener,
        ops_listener,
        metrics,
        Arc::default(),
        shutdown.clone(),
    );
    Served { address, ops, shutdown, ended: tokio::spawn(serving) }
}

impl Served {
    /// Sends these bytes and reads until the connection is closed, for a second at most.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    }
}

const POST: &str = "POST /api/webhooks/github HTTP/1.1\r\nHost: x\r\n";

fn assert_answer(answer: &str, status: &str, headers: &[&str], body: &str) {
    let (head, found) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let head = head.to_lowercase();
    assert!(head.starts_with(&format!("http/1.1 {status}")), "{answer}");
    assert!(head.contains("content-type: application/json"), "{answer}");
    for header in headers {
        assert!(head.contains(header), "{header} in {answer}");
    }
    assert_eq!(found, body);
}

#[tokio::test]
async fn without_a_broker_a_callback_is_put_off_before_its_body_is_read() {
    let served = serve(&[]).await;
    // The body never comes, and would be too large.
    let request = format!("{POST}Content-Length: 1000000\r\n\r\n");
    let answer = served.exchange(request.as_bytes()).await;
    assert_answer(&answer, "503", &["retry-after: 1"], r#"{"error":"Broker not available"}"#);
}

#[tokio::test]
async fn who_asks_before_sending_is_not_told_to_go_on() {
    let served = serve(&[]).await;
    let request = format!("{POST}Content-Length: 100\r\nExpect: 100-continue\r\n\r\n");
    let answer = served.exchange(request.as_bytes()).await;
    let headers = ["retry-after: 1", "connection: close"];
    assert_answer(&answer, "503", &headers, r#"{"error":"Broker not available"}"#);
}

#[tokio::test]
async fn a_refused_body_is_taken_in_and_the_connection_goes_on() {
    let served = serve(&[]).await;
    let body = "x".repeat(300_000);
    let length = body.len();
    let first = format!("{POST}Content-Length: {length}\r\n\r\n{body}");
    let second = "GET /api/webhooks/github HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = served.exchange(format!("{first}{second}").as_bytes()).await;
    let (first, second) = answers.split_once("available\"}").expect("two answers");
    assert!(first.starts_with("HTTP/1.1 503"), "{answers}");
    assert!(second.starts_with("HTTP/1.1 405"), "{answers}");
}

#[tokio::test]
async fn readiness_says_why_not() {
    let served = serve(&[]).await;
    let mut stream = TcpStream::connect(served.ops).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("the broker can't be reached"), "{answer}");
}

#[tokio::test]
async fn a_head_that_never_ends_does_not_delay_the_end() {
    let served = serve(&[]).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(POST.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    served.shutdown.cancel();
    let ended = timeout(Duration::from_secs(5), served.ended).await.expect("ends in time");
    ended.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
