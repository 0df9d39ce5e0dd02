//! What applies a generation in one process: an owner of each partition, and the renewals.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lease::Renewed;
use super::ownership::own;
use super::renewal::renew;
use super::worker::Worker;

/// The tasks of a process that applies a generation.
#[derive(Debug)]
pub struct Consuming {
    owners: TaskTracker,
    renewing: JoinHandle<()>,
    stop: CancellationToken,
}

impl Consuming {
    /// Starts them. `name` is the process's for people, and `renewed` is called after each renewal.
    pub fn start(
        worker: Worker,
        name: String,
        renewals: watch::Sender<Renewed>,
        renewed: impl Fn() + Send + 'static,
        shutdown: &CancellationToken,
    ) -> Self {
        let (worker, stop) = (Arc::new(worker), shutdown.child_token());
        let owners = TaskTracker::new();
        for partition in worker.layout.all() {
            owners.spawn(own(Arc::clone(&worker), partition, stop.clone()));
        }
        owners.close();
        let renewing = tokio::spawn(renew(worker, name, renewals, renewed));
        Self { owners, renewing, stop }
    }

    /// Waits until the database has gone over to other streams.
    pub async fn moved(&mut self) {
        // Without renewals nothing would be owned for long, so a panic ends this process, too.
        if let Err(error) = (&mut self.renewing).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Ends the owners, each after its batch, and then the renewals.
    pub async fn end(self) {
        self.stop.cancel();
        self.owners.wait().await;
        self.renewing.abort();
    }
}
