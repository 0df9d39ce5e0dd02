//! A worker process, as its partitions see it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use shared::partition::Layout;
use shared::trace::Traces;
use shared::turns::Turns;
use tokio::sync::watch;

use super::lease::Renewed;
use super::share::Share;
use crate::liveness::{Heard, Silence};
use crate::store::pool::{Connections, Pool};

/// What all partitions of a worker process share.
#[derive(Debug)]
pub struct Worker {
    /// The random id of this process.
    pub id: String,
    /// The database.
    pub db: Pool,
    /// The same, for renewals alone.
    pub renewals: Pool,
    /// Which connections to it are used.
    pub connections: Connections,
    /// The broker.
    pub jetstream: jetstream::Context,
    /// The streams that are applied.
    pub layout: Layout,
    /// How long an acquisition or a batch holds a partition.
    pub lease: Duration,
    /// The most callbacks in a batch.
    pub batch_max: usize,
    /// How many dead letters in a row a partition may have.
    pub dead_letter_limit: i32,
    /// How long applied messages stay in the streams; none to purge nothing.
    pub replay_horizon: Option<Duration>,
    /// When a job counts as silent; none to presume nobody failed.
    pub silence: Option<Silence>,
    /// What is heard of ingresses.
    pub heard: Heard,
    /// Whether no other process can be alive: SQLite's lock proves it.
    pub alone: bool,
    /// How many partitions this process may own.
    pub share: Arc<Share>,
    /// Whose batch is applied next, under load.
    pub turns: Arc<Turns>,
    /// What the last renewal found to be ours.
    pub renewed: watch::Receiver<Renewed>,
    /// Changes with every connection to the broker.
    pub connected: watch::Receiver<()>,
    /// Where spans are exported to.
    pub traces: Traces,
}
