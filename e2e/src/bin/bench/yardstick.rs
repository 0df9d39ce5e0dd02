//! The servers that ingress is measured against: its own listener, verification and parsing, with
//! the publish taken out, or with one publish a request. `bench` starts itself as one of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use chrono::Utc;
use clap::ValueEnum;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use ingress::signature::{Keys, ReplayWindow, Scheme, SigningKey, verify};
use shared::bundle::{self, Metadata};
use shared::callback;
use shared::listener::{self, Limits};
use shared::partition::Layout;
use shared::shutdown::{Leaving, on_signal};
use shared::stream::DEFAULT_PARTITIONS;
use tokio::net::TcpListener;

use e2e::stack::TEST_SECRET;

/// How many partitions the stacks have: `PARTITIONS`, or as many as a new deployment.
pub(crate) fn partition_count() -> u16 {
    let chosen = std::env::var("PARTITIONS").ok().and_then(|text| text.parse().ok());
    chosen.unwrap_or(DEFAULT_PARTITIONS)
}

/// What such a server does with a callback.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Yardstick {
    /// Answers at once: nothing that stores callbacks can be faster.
    NoPublish,
    /// Publishes it in a message of its own to one stream, which is what one has without
    /// partitions, and waits for the confirmation.
    OnePublish,
}

struct Site {
    keys: Keys,
    broker: Option<jetstream::Context>,
}

/// Serves until it is asked to end.
pub(crate) async fn serve(kind: Yardstick) -> Result<()> {
    let broker = match kind {
        Yardstick::NoPublish => None,
        Yardstick::OnePublish => {
            let url = std::env::var("NATS_URL").context("NATS_URL is not set")?;
            Some(jetstream::new(async_nats::connect(url).await?))
        }
    };
    let window = ReplayWindow { window: Duration::from_secs(300), require_timestamp: false };
    let secret = SigningKey::new(TEST_SECRET.as_bytes())?;
    let keys = Keys::new([("default", secret)], &Scheme::ALL, window);
    let site = Arc::new(Site { keys, broker });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(r#"{{"message":"listening","addr":"{}"}}"#, listener.local_addr()?);
    // Those of ingress.
    let limits = Limits {
        max_connections: 4096,
        silence_timeout: Duration::from_secs(10),
        max_header_bytes: 16_384,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        write_timeout: Duration::from_secs(30),
    };
    let handler = move |request| {
        let site = Arc::clone(&site);
        async move { answer(&site, request).await }
    };
    let leaving = Leaving::after(&on_signal()?, Duration::ZERO);
    let _ = listener::serve("callbacks", listener, None, limits, handler, leaving).await;
    Ok(())
}

async fn answer(site: &Site, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let stored = store(site, request).await;
    let (status, body) = match stored {
        Ok(()) => (StatusCode::OK, Bytes::from_static(b"{\"received\":true}")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string().into()),
    };
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

async fn store(site: &Site, request: Request<Incoming>) -> Result<()> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    #[expect(clippy::disallowed_methods, reason = "this is an edge")]
    let now = Utc::now();
    let verified = verify(&site.keys, &head.headers, body, now)?;
    let callback = callback::parse(verified.body())?;
    let partition = Layout::new(1, 1).first();
    let Some(broker) = &site.broker else { return Ok(()) };
    let metadata = Metadata {
        event_id: callback.event_id,
        ..Metadata::new(callback.job_id, verified.key(), now.timestamp_millis())
    };
    let stream = partition.stream();
    let message = PublishMessage::build()
        .payload(bundle::encode(&metadata, verified.body()))
        .message_id(format!("{:032x}", fastrand::u128(..)))
        .expected_stream(&stream)
        .header(bundle::VERSION_HEADER.0, bundle::VERSION_HEADER.1);
    let ack = broker.send_publish(partition.callbacks_subject(), message).await?.await?;
    if ack.stream != stream {
        bail!("another stream confirmed it");
    }
    Ok(())
}
