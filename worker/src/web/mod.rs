//! The console and its API, on the worker's ops listener.
//!
//! A request's way: `guard` checks whom it is meant for and who asks, then `api` answers programs
//! and `console` answers people. Both read the database over connections of their own, and one
//! shared snapshot.

mod api;
mod console;
mod extractors;
mod guard;
mod problem;
mod settings;

use std::sync::Arc;

use async_nats::jetstream;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sea_orm::DatabaseConnection;
use shared::ops::Rest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use settings::{Token, WebSettings};

use crate::observe::View;
use problem::Problem;

/// How many requests may be kept waiting for something to happen: fewer than the listener has
/// connections, so that probes and metrics always find one.
const MAX_WAITING: usize = 32;

/// How many orders about dead letters may be on their way.
const MAX_ORDERS: usize = 8;

/// What the console needs of the worker, once it is connected.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The database, over connections of its own.
    pub db: DatabaseConnection,
    /// The broker.
    pub jetstream: jetstream::Context,
}

/// What all requests share.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    view: View,
    backend: watch::Receiver<Option<Backend>>,
    settings: Arc<WebSettings>,
    waiting: Arc<Semaphore>,
    orders: Arc<Semaphore>,
    ending: CancellationToken,
}

impl Web {
    fn backend(&self) -> Result<Backend, Problem> {
        self.backend.borrow().clone().ok_or_else(Problem::connecting)
    }

    /// A place for a request that waits for something to happen.
    fn wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        take(&self.waiting)
    }

    /// A place for an order, which those who only look can't take.
    fn order(&self) -> Result<OwnedSemaphorePermit, Problem> {
        take(&self.orders)
    }
}

fn take(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    let place = Arc::clone(places).try_acquire_owned();
    place.map_err(|_| Problem::unavailable("too many requests wait already: try again later"))
}

/// Answers what the ops listener does not; requests that wait end with `ending`.
#[must_use]
pub fn rest(
    view: View,
    backend: watch::Receiver<Option<Backend>>,
    settings: WebSettings,
    ending: CancellationToken,
) -> Rest {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let orders = Arc::new(Semaphore::new(MAX_ORDERS));
    let web = Web { view, backend, settings: Arc::new(settings), waiting, orders, ending };
    let router = router(web);
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
        .fallback(async |request: Request| problem::not_found(&request))
        .method_not_allowed_fallback(async |request: Request| problem::method_not_allowed(&request))
        .layer(from_fn(guard::tag))
        .layer(from_fn_with_state(web.clone(), guard::check))
        .with_state(web)
}
