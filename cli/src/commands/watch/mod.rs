//! `ackline jobs watch`: what happens, as it happens. It only reads the database, about once a
//! second, and waits for one that is away.

mod all;
mod line;
mod one;
mod table;

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use sea_orm::DbErr;
use shared::settings::{Problems, duration};
use shared::shutdown;
use tokio_util::sync::CancellationToken;
use worker::process::settings::DatabaseArgs;
use worker::store::connection::Purpose;

use super::open;
use crate::output::Output;

/// `ackline jobs watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// The job; it need not be known yet.
    id: Option<String>,
    /// For how long to watch a job at the most, such as 20m; exits 3 then.
    #[arg(long, value_name = "DURATION", requires = "id", value_parser = duration)]
    timeout: Option<Duration>,
    /// The database.
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON objects, one a line, instead of a table or sentences.
    #[arg(long)]
    json: bool,
}

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
pub async fn run(args: &Watch, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let database = args.database.check(&mut problems);
    let database = problems.finish(database)?;
    let shutdown = shutdown::on_signal()?;
    let opened = open(&database, Purpose::Look).await;
    let look = Look { shutdown, is_away: false };
    match &args.id {
        Some(id) => {
            let db =
                opened.with_context(|| Unfinished(format!("the job {id:?} can't be watched")))?;
            one::watch(&db, look, id, args.timeout, args.json, out).await
        }
        None if out.is_terminal() && !args.json => table::watch(&opened?, look, out).await,
        None => all::watch(&opened?, look, args.json, out).await,
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
