//! The ops listener: `/livez`, `/readyz` and `/metrics`, for those who run Ackline.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::PrometheusHandle;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const MAX_CONNECTIONS: usize = 64;
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Tells whether the process can do its work; an empty list means that it can, otherwise each
/// line is a reason for people.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Serves the listener until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((listener.accept().await, permit))
            } => accepted,
        };
        let Some((accepted, permit)) = accepted else { return };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely; others will be closed soon.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (readiness, metrics) = (Arc::clone(&readiness), metrics.clone());
        let service = service_fn(move |request| {
            let response = answer(&request, &readiness, &metrics);
            async move { Ok::<_, Infallible>(response) }
        });
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                // A broken connection concerns only its peer.
                _ = connection => {}
            }
            drop(permit);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    readiness: &Readiness,
    metrics: &PrometheusHandle,
) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, body) = match request.uri().path() {
        "/livez" | "/readyz" | "/metrics" if !is_read => {
            (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n".to_owned())
        }
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match readiness() {
            reasons if reasons.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        },
        "/metrics" => (StatusCode::OK, metrics.render()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    }
    response
}
