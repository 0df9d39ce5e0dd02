//! Asking the database again and again, also while it is away.

use std::time::Duration;

use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it is not known how a job ends. A script must not take that for a failure of the job.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfinished(pub(super) String);

/// Looks at the database again and again.
pub(super) struct Look {
    pub(super) shutdown: CancellationToken,
    is_away: bool,
}

impl Look {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, is_away: false }
    }

    /// What is found; none while the database does not answer, which is said once, and when the user
    /// has seen enough.
    pub(super) async fn heard<T>(
        &mut self,
        find: impl Future<Output = Result<T, DbErr>>,
    ) -> Option<T> {
        match self.shutdown.run_until_cancelled(find).await? {
            Ok(found) => {
                if std::mem::take(&mut self.is_away) {
                    tracing::info!("the database answers again");
                }
                Some(found)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!("the database does not answer, and is asked again: {error}");
                }
                None
            }
        }
    }

    /// Waits for the next look; false when the user has seen enough.
    pub(super) async fn pause(&self) -> bool {
        self.shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some()
    }
}
