//! The life of a worker process.

pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::connection::State;
use async_nats::{Client, ClientError, Event, jetstream};

use sea_orm::DatabaseConnection;
use shared::ops::{self, Readiness};
use shared::partition::Layout;
use shared::shutdown::propagate;
use shared::stream::{self, ContractError};
use shared::telemetry::PrometheusHandle;
use shared::trace::Traces;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::liveness::{self, Heard, Silence};
use crate::observe::{self, Observer, Sources};
use crate::partition::consuming::Consuming;
use crate::partition::lease::Renewed;
use crate::partition::turns::turns;
use crate::partition::worker::Worker;
use crate::partition::{janitor, metrics as partition_metrics};
use crate::store::connection::{self, DatabaseUrl, Owned, Purpose};
use crate::store::partitions;
use crate::store::schema::{self, SchemaError};
use crate::web::{self, Backend};
use settings::Run;

/// How long flushing the last acks may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// The pause before something that is unreachable at the start is tried again.
const RETRY: Duration = Duration::from_secs(1);

fn describe_metrics() {
    partition_metrics::describe();
    observe::describe_metrics();
    janitor::describe_metrics();
    liveness::describe_metrics();
    web::metrics::describe();
    shared::listener::describe_metrics();
}

/// Consumes and applies until `shutdown`, and exports spans to `traces`.
///
/// # Errors
/// The database or the streams are not what this binary needs, or the shutdown took longer than its
/// grace. It waits for what is merely unreachable.
pub async fn run(
    mut config: Run,
    ops_listener: TcpListener,
    metrics: PrometheusHandle,
    traces: Traces,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    describe_metrics();
    let args = &config.args;
    let silence = Silence { heartbeat: args.heartbeat_timeout, queued: args.queued_timeout };
    let sole_worker = connection::lock(&config.database)?;
    let renewals = watch::channel(Renewed::nothing());
    let (health, status) = watch::channel(Health::default());
    tracing::info!(ops = %ops_listener.local_addr()?, worker = args.worker_id, "listening");
    let ops_end = CancellationToken::new();
    let (observer, view) = Observer::new();
    let (backend, current_backend) = watch::channel(None);
    let settings = std::mem::take(&mut config.web);
    let mut ops_task = tokio::spawn(ops::serve(
        ops_listener,
        ops::LIMITS,
        readiness(status, args.lease),
        metrics,
        web::rest(view, current_backend, settings, ops_end.clone()),
        ops_end.clone(),
    ));

    let connected = watch::channel(());
    let connecting = connect(&config, connected.0, &health, &shutdown);
    let Some((owned, client)) = connecting.await? else { return Ok(()) };
    let db = owned.db;
    health.send_modify(|health| health.broker = Some(client.clone()));
    let jetstream = jetstream::new(client.clone());
    let look = retry("the database can't be reached", &shutdown, Ok, async || {
        connection::connect(&config.database, Purpose::Look).await
    });
    let Some(look) = look.await? else { return Ok(()) };
    backend.send_replace(Some(Backend { db: look.clone(), jetstream: jetstream.clone() }));
    let sources = Sources {
        db: look.clone(),
        jetstream: Some(jetstream.clone()),
        ingresses: args.ingresses.ingress_ops.clone(),
    };
    let mut observing = tokio::spawn(observer.run(sources, renewals.1.clone(), silence));

    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut consuming = None;
    while let Some(layout) = find_streams(&db.get(), &jetstream, &shutdown).await? {
        let worker = Worker {
            id: id.clone(),
            db: db.clone(),
            renewals: owned.renewals.clone(),
            connections: owned.connections.clone(),
            jetstream: jetstream.clone(),
            layout,
            lease: args.lease,
            batch_max: args.batch_max,
            dead_letter_limit: args.dead_letter_limit,
            replay_horizon: Some(args.replay_horizon),
            silence: Some(silence),
            heard: Heard::default(),
            alone: sole_worker.is_some(),
            share: Arc::default(),
            turns: turns(),
            renewed: renewals.1.clone(),
            connected: connected.1.clone(),
            traces: traces.clone(),
        };
        tracing::info!(
            worker = args.worker_id, id, partitions = layout.partitions(),
            generation = layout.generation(), database = ?config.database, broker = %config.servers,
            "consuming"
        );
        let (name, renewals, health) = (args.worker_id.clone(), renewals.0.clone(), health.clone());
        let renewed = move |is_deaf| {
            health.send_modify(|health| {
                (health.renewed_at, health.is_deaf) = (Some(Instant::now()), is_deaf);
            });
        };
        let mut now = Consuming::start(worker, name, renewals, renewed, &shutdown);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                consuming = Some(now);
                break;
            }
            () = now.moved() => {}
            ended = &mut observing => propagate(ended),
            ended = &mut ops_task => propagate(ended),
        }
        tracing::info!("the database has gone over to other streams");
        now.end().await;
    }

    shutdown.cancelled().await;
    let ended = tokio::time::timeout(args.shutdown_grace, async {
        if let Some(consuming) = consuming {
            consuming.end().await;
        }
        observing.abort();
        if let Err(error) = partitions::leave(&db.get(), &id).await {
            tracing::warn!(%error, "this worker's row stays until another one removes it");
        }
        // Acks and deletions have no answer; they must be flushed before the process ends. While
        // the broker is away nothing answers, and nothing is lost by not waiting.
        let _ = tokio::time::timeout(FLUSH_LIMIT, client.flush()).await;
        ops_end.cancel();
        let _ = ops_task.await;
        let _ = look.close().await;
        let _ = db.get().close().await;
        let _ = owned.renewals.get().close().await;
    })
    .await;
    if ended.is_err() {
        bail!(
            "ACK-403: the shutdown took longer than its grace; what was in flight is applied by the next worker"
        );
    }
    tracing::info!("ended");
    Ok(())
}

/// The streams that the database's checkpoints are of, checked; none if the shutdown came first.
async fn find_streams(
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Layout>> {
    let layout = retry("the database does not tell its streams", shutdown, Ok, async || {
        schema::layout(db).await
    });
    let Some(layout) = layout.await? else { return Ok(None) };
    let layout =
        layout.context("ACK-306: the database has no partitions yet: run `ackline migrate`")?;
    let checked = retry(
        "the streams can't be looked at",
        shutdown,
        |error: ContractError| if error.may_pass() { Ok(error) } else { Err(error) },
        async || stream::check(jetstream, layout).await,
    );
    let checked = checked.await.with_context(|| {
        format!(
            "the streams of generation {}, which the database belongs to, can't be used; check \
             DATABASE_URL and NATS_URL",
            layout.generation()
        )
    })?;
    Ok(checked.map(|()| layout))
}

/// Connects to both, waiting for what is unreachable; none if the shutdown came first. Reports every
/// connection to the broker to `connected`, and why there is none to `health`.
async fn connect(
    config: &Run,
    connected: watch::Sender<()>,
    health: &watch::Sender<Health>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<(Owned, Client)>> {
    let owned = retry("the database can't be reached", shutdown, Ok, async || {
        connection::own(&config.database, config.args.lease).await
    })
    .await?;
    let Some(owned) = owned else { return Ok(None) };
    let checked = retry(
        "the database does not tell its schema",
        shutdown,
        |error| match error {
            SchemaError::Database(error) => Ok(error),
            _ => Err(error),
        },
        async || schema::check(&owned.db.get()).await,
    )
    .await?;
    let Some(()) = checked else { return Ok(None) };
    if let DatabaseUrl::Sqlite { .. } = &config.database {
        tracing::debug!("SQLite: this is the one worker process");
    }
    let client = retry("the broker can't be reached", shutdown, Ok, async || {
        let (connected, reconnecting) = (connected.clone(), health.clone());
        let options = config.servers.options("worker").event_callback(move |event| {
            match event {
                Event::Connected => {
                    reconnecting.send_modify(|health| health.trouble = None);
                    connected.send_replace(());
                }
                Event::ClientError(ClientError::Other(why)) => trouble(&reconnecting, why),
                _ => {}
            }
            std::future::ready(())
        });
        let client = config.servers.connect_with(options).await;
        client.inspect_err(|error| trouble(health, error.to_string()))
    })
    .await?;
    Ok(client.map(|client| (owned, client)))
}

/// Retries until it succeeds or fails for good. `passing` returns what to log of a transient error,
/// and gives any other error back. None if the shutdown came first.
async fn retry<T, E, P: std::fmt::Display>(
    problem: &str,
    shutdown: &CancellationToken,
    passing: impl Fn(E) -> Result<P, E>,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<Option<T>, E> {
    let attempts = async {
        loop {
            match attempt().await.map_err(&passing) {
                Ok(value) => return Ok(value),
                Err(Ok(error)) => tracing::warn!(%error, "{problem}; trying again"),
                Err(Err(error)) => return Err(error),
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shutdown.run_until_cancelled(attempts).await.transpose()
}

/// The facts behind `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct Health {
    broker: Option<Client>,
    /// Why the last attempt to connect to the broker failed.
    trouble: Option<String>,
    renewed_at: Option<Instant>,
    /// Whether the broker has not answered for a lease.
    is_deaf: bool,
}

fn trouble(health: &watch::Sender<Health>, why: String) {
    health.send_modify(|health| health.trouble = Some(why));
}

fn readiness(health: watch::Receiver<Health>, lease: Duration) -> Readiness {
    Arc::new(move || {
        let health = health.borrow();
        let mut reasons = Vec::new();
        match &health.broker {
            Some(client) if client.connection_state() == State::Connected => {}
            _ => {
                let why = health.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                reasons.push(format!("ACK-401: the broker is not connected{why}"));
            }
        }
        if health.is_deaf {
            let why = "ACK-404: the broker has not answered for a whole lease: the partitions are given \
                       back";
            reasons.push(why.to_owned());
        }
        if health.renewed_at.is_none_or(|at| at.elapsed() >= lease) {
            reasons.push("ACK-402: the database has not answered for a whole lease".to_owned());
        }
        reasons
    })
}
