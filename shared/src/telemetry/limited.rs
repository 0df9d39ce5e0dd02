//! Bounds how often something is logged that a stranger can cause.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets one line through in a while, and counts the others.
#[derive(Debug)]
pub struct Limited {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Limited {
    /// At most one line in this time.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: None, held_back: 0 }) }
    }

    /// Whether a line may be written now: then how many were held back since the last one.
    pub fn admit(&self) -> Option<u64> {
        // Nothing can panic while it is locked.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < self.every) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_in_a_while_counts_the_others() {
        let limited = Limited::new(Duration::from_secs(10));
        assert_eq!(limited.admit(), Some(0));
        for _ in 0..3 {
            assert_eq!(limited.admit(), None);
        }
        advance(Duration::from_secs(10)).await;
        assert_eq!(limited.admit(), Some(3));
        assert_eq!(limited.admit(), None);
        advance(Duration::from_secs(100)).await;
        assert_eq!(limited.admit(), Some(1));
    }
}
