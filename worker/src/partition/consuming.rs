//! What applies a generation in one process: an owner of each partition, and the renewals.

use std::convert::Infallible;
use std::sync::Arc;

use shared::shutdown::propagate;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::lease::Renewed;
use super::ownership::own;
use super::renewal::renew;
use super::worker::Worker;

/// The tasks of a process that applies a generation.
#[derive(Debug)]
pub struct Consuming {
    tasks: JoinSet<()>,
    renewing: AbortHandle,
    stop: CancellationToken,
}

impl Consuming {
    /// Starts them. `name` is the process's for people; `renewed` is that of [`renew`].
    pub fn start(
        worker: Worker,
        name: String,
        renewals: watch::Sender<Renewed>,
        renewed: impl Fn(bool) + Send + 'static,
        shutdown: &CancellationToken,
    ) -> Self {
        let (worker, stop) = (Arc::new(worker), shutdown.child_token());
        let mut tasks = JoinSet::new();
        for partition in worker.layout.all() {
            tasks.spawn(own(Arc::clone(&worker), partition, stop.clone()));
        }
        let renewing = tasks.spawn(renew(worker, name, renewals, renewed));
        Self { tasks, renewing, stop }
    }

    /// Waits until the database has gone over to other streams.
    pub async fn moved(&mut self) {
        // Only the renewals end by themselves.
        self.join_next().await;
    }

    /// Goes on with the panic of any task, for as long as it is polled.
    pub async fn fail(&mut self) -> Infallible {
        while !self.tasks.is_empty() {
            self.join_next().await;
        }
        std::future::pending().await
    }

    /// Ends the owners, each after its batch, and then the renewals.
    pub async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.len() > usize::from(!self.renewing.is_finished()) {
            self.join_next().await;
        }
        self.renewing.abort();
    }

    /// Waits for the end of a task. A panic ends the process: the leases of an owner that is gone
    /// would be renewed for ever.
    async fn join_next(&mut self) {
        if let Some(ended) = self.tasks.join_next().await {
            propagate(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_a_defect() -> Consuming {
        let mut tasks = JoinSet::new();
        let renewing = tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("a defect") });
        Consuming { tasks, renewing, stop: CancellationToken::new() }
    }

    #[tokio::test]
    async fn an_owner_that_panics_takes_the_process_with_it() {
        let (mut worker, mut rebuild) = (with_a_defect(), with_a_defect());
        let ended = tokio::spawn(async move { worker.moved().await }).await;
        assert!(ended.unwrap_err().is_panic());
        let ended = tokio::spawn(async move { rebuild.fail().await }).await;
        assert!(ended.unwrap_err().is_panic());
    }
}
