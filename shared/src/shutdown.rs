//! How a process ends: the first SIGTERM or SIGINT asks, a second one does not.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: what a shell reports for a process that SIGINT ended.
const ENDED_AT_ONCE: i32 = 130;

/// A token that the first SIGTERM or SIGINT cancels. A second signal ends the process at once.
///
/// # Errors
/// When the signals can't be listened to.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(ENDED_AT_ONCE);
            }
            tracing::info!("shutting down");
            cancelled.cancel();
        }
    });
    Ok(token)
}
