//! Metrics.

use std::time::Duration;

pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// The histogram that ranges from a healthy worker's milliseconds to the hours of an outage.
pub const ACCEPT_TO_COMMIT: &str = "ackline_worker_accept_to_commit_seconds";

/// Installs the process's metrics recorder, and its upkeep in the background.
///
/// # Errors
/// There is a recorder already: call it once.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    // Seconds from a fast publish to a publish deadline.
    const SECONDS: [f64; 14] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 12.0];
    // Up to the largest bundle.
    const CALLBACKS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
    // From a healthy worker to an outage of hours.
    const WAITING: [f64; 14] =
        [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 14400.0];
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_callbacks".into()), &CALLBACKS)?
        .set_buckets_for_metric(Matcher::Full(ACCEPT_TO_COMMIT.into()), &WAITING)?
        .install_recorder()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
