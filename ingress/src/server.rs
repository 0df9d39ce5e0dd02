//! The listener for callbacks, and its one path.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request};
use shared::listener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Refusal};
use crate::callback::{Door, refuse_unread};
use crate::config::Limits;

/// How long a sender may take nothing of its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the listener until `shutdown`; returns the connections that are still open then, which
/// end with the requests in flight on them.
pub(crate) async fn accept(
    listener: TcpListener,
    path: String,
    door: Door,
    limits: Limits,
    shutdown: &CancellationToken,
) -> TaskTracker {
    let limits = listener::Limits {
        max_connections: limits.max_connections,
        header_timeout: limits.header_timeout,
        write_timeout: WRITE_TIMEOUT,
    };
    let site = Arc::new((path, door));
    let handler = move |request| {
        let site = Arc::clone(&site);
        async move { route(&site.0, &site.1, request).await }
    };
    listener::serve(listener, limits, handler, shutdown).await
}

async fn route(path: &str, door: &Door, request: Request<Incoming>) -> Answer {
    let refusal = if request.uri().path() != path {
        Refusal::NotFound
    } else if request.method() != Method::POST {
        Refusal::MethodNotAllowed
    } else {
        return door.answer(request).await;
    };
    let (head, body) = request.into_parts();
    refuse_unread(refusal, &head.headers, body)
}
