//! How a process ends: the first SIGTERM or SIGINT asks it to, a second one ends it at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: what a shell reports for a process that SIGINT ended.
const ENDED_AT_ONCE: i32 = 130;

/// A token that the first SIGTERM or SIGINT cancels. A second signal ends the process at once.
///
/// # Errors
/// The signal handlers cannot be installed: do not start, because nobody could end it gently.
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
            cancelled.cancel();
            tracing::info!("shutting down");
        }
    });
    Ok(token)
}

/// Goes on with the panic of a task that has ended, so that its process ends, too: nobody would do
/// what the task did.
pub fn propagate<T>(ended: Result<T, JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// The two steps of a listener's shutdown.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// From here on clients are asked to close their connections, and are still served.
    pub begun: CancellationToken,
    /// From here on no new connection is served.
    pub stopped: CancellationToken,
}

impl Leaving {
    /// The first step comes with `asked`, the second a `delay` later.
    #[must_use]
    pub fn after(asked: &CancellationToken, delay: Duration) -> Self {
        if delay.is_zero() {
            return Self { begun: asked.clone(), stopped: asked.clone() };
        }
        let leaving = Self { begun: asked.clone(), stopped: CancellationToken::new() };
        let Self { begun, stopped } = leaving.clone();
        tokio::spawn(async move {
            begun.cancelled().await;
            tokio::time::sleep(delay).await;
            stopped.cancel();
        });
        leaving
    }
}
