//! Logs and metrics of a process.

mod limited;
mod logs;
mod metrics;

pub use self::limited::Limited;
pub use self::logs::{check, init_logs, init_logs_to};
pub use self::metrics::{ACCEPT_TO_COMMIT, PrometheusHandle, init_metrics};
