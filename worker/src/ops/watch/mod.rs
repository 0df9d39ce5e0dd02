//! `worker jobs watch`: what happens, as it happens. It only reads the database, about once a
//! second, and waits for one that is away.

mod all;
mod line;
mod one;
mod table;

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;

use super::{Output, open};
use crate::config::jobs::WatchJobs;
use crate::store::connection::Purpose;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it is not known how a job ends. A script must not take that for a failure of the job.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfinished(String);

/// Runs the command and prints on `out`, until the job has finished or the user has seen enough.
///
/// # Errors
/// When the job failed; [`Unfinished`] when it is not known how it ends. When the database can't be
/// opened at first.
pub async fn run(
    config: WatchJobs,
    shutdown: CancellationToken,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let opened = open(&config.database, Purpose::Look).await;
    let look = Look { shutdown, is_away: false };
    match &config.id {
        Some(id) => {
            let db =
                opened.with_context(|| Unfinished(format!("the job {id:?} can't be watched")))?;
            one::watch(&db, look, id, config.timeout, config.json, out).await
        }
        None if out.is_terminal() && !config.json => table::watch(&opened?, look, out).await,
        None => all::watch(&opened?, look, config.json, out).await,
    }
}

/// Looks at the database again and again.
struct Look {
    shutdown: CancellationToken,
    is_away: bool,
}

impl Look {
    /// What is found; none while the database does not answer, which is said once, and when the user
    /// has seen enough.
    async fn heard<T>(&mut self, find: impl Future<Output = Result<T, DbErr>>) -> Option<T> {
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
    async fn pause(&self) -> bool {
        self.shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some()
    }
}
