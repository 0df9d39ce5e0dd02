//! Ingress: takes signed callbacks over HTTP and answers 200 once the stream has stored them.
//!
//! A callback's way through this crate: `listener` accepts its connection and checks the path,
//! `callback` reads the body and decides, [`signature`] verifies it, `publish` bundles it with
//! others and publishes until the stream confirms, and `link` keeps the connection to the broker.
//! `answer` has every refusal.

pub mod secrets;
pub mod settings;

mod reload;

mod callback;
mod listener;
pub mod signature;

mod link;
mod publish;

mod answer;
pub mod clock;
mod decision_log;
mod metrics;

use std::sync::Arc;

use shared::ops;
use shared::shutdown::Leaving;
use shared::telemetry::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::callback::Handler;
use crate::decision_log::DecisionLog;
pub use crate::link::TooSmall;
use crate::link::{Link, State};
use crate::publish::{Bundlers, tick};
use crate::settings::Config;

/// Why ingress ended other than by an orderly shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration does not fit the broker.
    #[error(transparent)]
    Broker(#[from] TooSmall),
    /// A task panicked; the message is in the log.
    #[error("a task failed, without which ingress can't go on: the log says why")]
    Task(#[from] tokio::task::JoinError),
    /// A task that publishes callbacks panicked; the message is in the log.
    #[error("a task that publishes callbacks failed: the log says why")]
    Publishing,
    /// Requests or bundles were unfinished at the end of the grace period.
    #[error(
        "callbacks were still unconfirmed at the end of --shutdown-grace: their senders, who had no \
         answer, must send them again"
    )]
    Unfinished,
}

/// Serves callbacks on `listener` and operators on `ops_listener` until `shutdown`, then finishes
/// the requests in flight. Reads secrets and certificate again whenever `reload` is notified.
///
/// # Errors
/// [`ServeError`]: end the process. [`ServeError::Broker`] is a bad setting, which only the broker
/// could reveal.
pub async fn serve(
    mut config: Config,
    listener: TcpListener,
    ops_listener: TcpListener,
    metrics: PrometheusHandle,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let traces = std::mem::take(&mut config.traces).start("ackline-ingress");
    let decision_log = DecisionLog::new(traces.clone(), &config.args.callback_path);
    let served =
        serve_traced(config, decision_log, listener, ops_listener, metrics, reload, shutdown).await;
    traces.finish().await;
    served
}

async fn serve_traced(
    config: Config,
    decision_log: DecisionLog,
    listener: TcpListener,
    ops_listener: TcpListener,
    metrics: PrometheusHandle,
    reload: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    metrics::describe();
    metrics::keys(&config.keys);
    tracing::info!(
        keys = ?config.keys,
        schemes = ?config.keys.schemes(),
        tls = config.tls.is_some(),
        "callbacks are verified",
    );
    let (state, link_state) = watch::channel(State::Connecting);
    let limits = config.args.limits.within_open_files();
    let link = Link::new(config.servers, state, limits.max_body_bytes, limits.publish_deadline);
    let unlink = CancellationToken::new();
    let mut link = tokio::spawn(link.run(unlink.clone()));

    let readiness = readiness(link_state.clone(), shutdown.clone());
    let mut serving_ops = {
        let (limits, rest) = (ops::LIMITS, ops::nothing_else());
        tokio::spawn(ops::serve(ops_listener, limits, readiness, metrics, rest, unlink.clone()))
    };

    let (keys, current_keys) = watch::channel(Arc::new(config.keys));
    let (files, tls) = match config.tls {
        Some((files, first)) => {
            let (sender, tls) = watch::channel(first);
            (Some((files, sender)), Some(tls))
        }
        None => (None, None),
    };
    let mut reloading = tokio::spawn(reload::run(reload, config.key_source, keys, files));

    let leaving = Leaving::after(&shutdown, config.args.drain_delay);
    let bundlers = Arc::new(Bundlers::new(link_state.clone(), limits.max_in_flight));
    let mut ticking = tokio::spawn(tick(Arc::clone(&bundlers), link_state.clone()));
    let stopped = leaving.stopped.clone();
    let handler = Handler::new(
        current_keys,
        limits,
        link_state,
        Arc::clone(&bundlers),
        decision_log,
        stopped,
    );
    let connections = {
        let path = config.args.callback_path;
        let serving = listener::accept(listener, tls, path, handler, limits.connection(), leaving);
        tokio::select! {
            connections = serving => connections,
            // It ends by itself only if it cannot continue.
            ended = &mut link => return Ok(ended??),
            ended = &mut serving_ops => return Ok(ended?),
            ended = &mut reloading => return Ok(ended?),
            ended = &mut ticking => return Ok(ended?),
            () = bundlers.failed() => return Err(ServeError::Publishing),
        }
    };
    reloading.abort();
    ticking.abort();

    let end = Instant::now() + config.args.shutdown_grace.saturating_sub(config.args.drain_delay);
    let finished = timeout_at(end, async {
        connections.wait().await;
        bundlers.close().await;
    });
    let finished = finished.await.is_ok();
    unlink.cancel();
    link.await??;
    serving_ops.await?;
    if finished { Ok(()) } else { Err(ServeError::Unfinished) }
}

fn readiness(link: watch::Receiver<State>, shutdown: CancellationToken) -> shared::ops::Readiness {
    Arc::new(move || {
        let leaving = shutdown.is_cancelled().then(|| "ACK-424: shutting down".to_owned());
        leaving.into_iter().chain(link.borrow().reason()).collect()
    })
}
