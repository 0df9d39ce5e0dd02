//! The progress of a long operation.

use std::fmt;
use std::sync::Arc;

/// One report of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This much remains, in messages or rows, regardless of earlier reports.
    Remaining(u64),
    /// This much was done since the last report.
    Done(u64),
}

/// Reports progress to a listener. By default there is none, and reporting costs nothing.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl Progress {
    /// Reports to this function, which must return quickly.
    pub fn to(listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Whether there is a listener: otherwise nothing needs to be computed for it.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// See [`Step::Remaining`].
    pub fn remaining(&self, amount: u64) {
        self.tell(Step::Remaining(amount));
    }

    /// See [`Step::Done`].
    pub fn done(&self, amount: u64) {
        self.tell(Step::Done(amount));
    }

    fn tell(&self, step: Step) {
        if let Some(listener) = &self.0 {
            listener(step);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.is_heard()).finish()
    }
}
