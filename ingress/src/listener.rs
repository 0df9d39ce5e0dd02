//! The listener for callbacks, and its one path.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request};
use shared::listener::{self, Limits, Tls};
use shared::shutdown::Leaving;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Refusal};
use crate::callback::{Handler, refuse_unread};

/// Serves the listener until the shutdown. Returns the connections that are still open then; each
/// ends with its request in flight.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    path: String,
    handler: Handler,
    limits: Limits,
    leaving: Leaving,
) -> TaskTracker {
    let site = Arc::new((path, handler));
    let answer = move |request| {
        let site = Arc::clone(&site);
        async move { route(&site.0, &site.1, request).await }
    };
    listener::serve("callbacks", listener, tls, limits, answer, leaving).await
}

async fn route(path: &str, handler: &Handler, request: Request<Incoming>) -> Answer {
    let refusal = if request.uri().path() != path {
        Refusal::NotFound
    } else if request.method() != Method::POST {
        Refusal::MethodNotAllowed
    } else {
        return handler.answer(request).await;
    };
    let (head, body) = request.into_parts();
    refuse_unread(refusal, &head.headers, body)
}
