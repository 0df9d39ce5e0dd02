//! What all requests share.

use std::sync::Arc;

use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use shared::eviction::Slots;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::in_flight::MAX_IN_FLIGHT;
use super::problem::Problem;
use super::settings::WebSettings;
use crate::observe::View;

/// How many requests may wait for something to happen: fewer than may be in flight.
const MAX_WAITING: usize = 32;

/// How many orders about dead letters may be in flight.
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
    pub(super) view: View,
    backend: watch::Receiver<Option<Backend>>,
    pub(super) settings: Arc<WebSettings>,
    pub(super) attempts: Arc<Attempts>,
    /// All of them, until their answers are written.
    pub(super) in_flight: Arc<Slots>,
    waiting: Arc<Semaphore>,
    orders: Arc<Semaphore>,
    pub(super) ending: CancellationToken,
}

impl Web {
    pub(super) fn new(
        view: View,
        backend: watch::Receiver<Option<Backend>>,
        settings: WebSettings,
        ending: CancellationToken,
    ) -> Self {
        let attempts = Arc::new(Attempts::new());
        let in_flight = Arc::new(Slots::new(MAX_IN_FLIGHT));
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let orders = Arc::new(Semaphore::new(MAX_ORDERS));
        Self {
            view,
            backend,
            settings: Arc::new(settings),
            attempts,
            in_flight,
            waiting,
            orders,
            ending,
        }
    }

    pub(super) fn backend(&self) -> Result<Backend, Problem> {
        self.backend.borrow().clone().ok_or_else(Problem::connecting)
    }

    /// A permit for a request that waits for something to happen.
    pub(super) fn wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        take(&self.waiting)
    }

    /// A permit for an order. Requests that only read cannot use these up.
    pub(super) fn order(&self) -> Result<OwnedSemaphorePermit, Problem> {
        take(&self.orders)
    }
}

fn take(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    let permit = Arc::clone(permits).try_acquire_owned();
    permit.map_err(|_| Problem::unavailable("too many requests wait already: try again later"))
}
