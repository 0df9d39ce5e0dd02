//! The console and its API, on the worker's ops listener.
//!
//! A request's way: `guard` checks whom it is meant for and who asks, `in_flight` bounds it, then
//! `api` answers programs and `console` answers people. Both read the database over connections of their own, and one
//! shared snapshot.

mod attempts;
pub(crate) mod metrics;
mod problem;
mod settings;
mod state;

mod answer;
mod extractors;

mod api;
mod console;

mod guard;
mod in_flight;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use shared::ops::Rest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use settings::{Token, WebSettings};
pub use state::Backend;

use crate::observe::View;
use state::Web;

/// Answers every path that the ops listener does not; requests that wait end with `ending`.
#[must_use]
pub fn rest(
    view: View,
    backend: watch::Receiver<Option<Backend>>,
    settings: WebSettings,
    ending: CancellationToken,
) -> Rest {
    let router = router(Web::new(view, backend, settings, ending));
    Arc::new(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        Box::pin(async move {
            let answer = match router.oneshot(request.map(axum::body::Body::new)).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
            answer.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    })
}

fn router(web: Web) -> Router {
    Router::new()
        .merge(console::router())
        .merge(api::router())
        .fallback(async |request: Request| answer::not_found(&request))
        .method_not_allowed_fallback(async |request: Request| answer::method_not_allowed(&request))
        .layer(from_fn(guard::tag))
        .layer(from_fn_with_state(web.clone(), in_flight::bound))
        .layer(from_fn_with_state(web.clone(), guard::check))
        .with_state(web)
}
