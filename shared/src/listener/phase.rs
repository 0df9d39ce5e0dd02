//! What a connection waits for, and until when.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;
use crate::eviction::{Evicted, Slot};

/// How long a connection without a request in flight is left open at the end.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What the connection waits for, and until when.
pub(super) struct Phase {
    limits: Limits,
    now: Mutex<Now>,
}

struct Now {
    slot: Slot,
    waits: Waits,
    is_stopping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the first byte of the first request.
    Silent(Instant),
    /// For the rest of a head.
    Head(Instant),
    /// For the first byte of the next request.
    Idle(Instant),
    /// For nothing: a request is in flight, and its waits are the handler's.
    No,
}

/// A request in flight, until it is dropped.
pub(super) struct Working(pub(super) Arc<Phase>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Phase {
    pub(super) fn new(limits: Limits, slot: Slot, silent_until: Instant) -> Self {
        let now = Now { slot, waits: Waits::Silent(silent_until), is_stopping: false };
        Self { limits, now: Mutex::new(now) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Only the connection's own task locks it.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have arrived.
    pub(super) fn hear(&self) {
        let mut now = self.now();
        if matches!(now.waits, Waits::Silent(_) | Waits::Idle(_)) && !now.is_stopping {
            now.waits = Waits::Head(Instant::now() + self.limits.header_timeout);
        }
    }

    /// A head is complete.
    pub(super) fn begin(&self) -> Result<(), Evicted> {
        let mut now = self.now();
        now.waits = Waits::No;
        now.slot.set_busy()
    }

    /// The answer was written.
    pub(super) fn end(&self) {
        let mut now = self.now();
        let limit = if now.is_stopping { LINGER } else { self.limits.idle_timeout };
        now.waits = Waits::Idle(Instant::now() + limit);
        now.slot.set_idle();
    }

    /// A head that never ends must not delay the end of the process.
    pub(super) fn stop(&self) {
        let mut now = self.now();
        now.is_stopping = true;
        if now.waits != Waits::No {
            now.waits = Waits::Head(Instant::now() + LINGER);
        }
    }

    /// The limit that applies now, and its name.
    pub(super) fn limit(&self) -> Option<(Instant, &'static str)> {
        match self.now().waits {
            Waits::Silent(until) => Some((until, "silence")),
            Waits::Head(until) => Some((until, "header")),
            Waits::Idle(until) => Some((until, "idle")),
            Waits::No => None,
        }
    }
}
