//! `ackline jobs watch`: what happens, as it happens. It only reads the database, about once a
//! second, and waits for one that is away.

mod all;
mod line;
mod look;
mod one;

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use shared::settings::{Problems, duration};
use shared::shutdown;
use worker::process::settings::DatabaseArgs;
use worker::store::connection::Purpose;

pub use look::Unfinished;

use super::open;
use crate::output::Output;
use look::Look;

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
    /// Print JSON objects, one a line, instead of sentences.
    #[arg(long)]
    json: bool,
}

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
    let look = Look::new(shutdown);
    match &args.id {
        Some(id) => {
            let db =
                opened.with_context(|| Unfinished(format!("the job {id:?} can't be watched")))?;
            one::watch(&db, look, id, args.timeout, args.json, out).await
        }
        None => all::watch(&opened?, look, args.json, out).await,
    }
}
