//! What SIGHUP reloads: the secrets in the file, and the certificate.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_rustls::rustls::ServerConfig;

use crate::metrics;
use crate::settings::{KeySource, TlsFiles};
use crate::signature::Keys;

/// Reads everything again on each notification, for ever. What cannot be used changes nothing.
pub(crate) async fn run(
    asked: Arc<Notify>,
    source: KeySource,
    keys: watch::Sender<Arc<Keys>>,
    tls: Option<(TlsFiles, watch::Sender<Arc<ServerConfig>>)>,
) {
    loop {
        asked.notified().await;
        outcome(
            "secrets",
            source.load().map(|new| {
                let new = Arc::new(new);
                keys.send_replace(Arc::clone(&new));
                metrics::keys(&new);
                let ids = new.ids().map(|id| &**id).collect::<Vec<_>>().join(", ");
                tracing::info!(keys = ids, "read the secrets again: {ids} are active");
            }),
        );
        if let Some((files, current)) = &tls {
            outcome(
                "certificate",
                files.load().map_err(|unusable| unusable.to_string()).map(|new| {
                    current.send_replace(new);
                    tracing::info!("read the certificate again");
                }),
            );
        }
    }
}

fn outcome(what: &'static str, read: Result<(), String>) {
    metrics::reloaded(what, read.is_ok());
    if let Err(problem) = read {
        tracing::error!("the {what} can't be read again, the former stay in use: {problem}");
    }
}
