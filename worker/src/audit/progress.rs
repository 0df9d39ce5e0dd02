//! How far something long has got, for whoever wants to know.

use std::fmt;
use std::sync::Arc;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So much is still to be done, in messages or rows, whatever was said before.
    Remaining(u64),
    /// So much is done since it was told last.
    Done(u64),
}

/// Tells somebody. By default there is nobody, and telling costs nothing.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl Progress {
    /// Tells this function, which must not take long.
    pub fn to(listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Whether anybody listens: what only they would want need not be found out otherwise.
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
