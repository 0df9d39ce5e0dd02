//! `worker jobs`.

use std::time::Duration;

use clap::{Args, Subcommand};
use shared::config::{Invalid, Problems, duration};

use super::{DatabaseArgs, ListArgs, ReadArgs, optional};
use crate::entity::job::Status;
use crate::store::connection::DatabaseUrl;

/// `worker jobs`.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, the newest first: those that were first heard of last.
    List(ListJobsArgs),
    /// Show one job with its timeline.
    Show {
        /// The job's id.
        id: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Watch what happens, as it happens. With an ID, until that job has finished: exits 0 when it is
    /// running, 1 when it failed, and 3 when that is not known. Without one, all jobs, until Ctrl-C.
    Watch(WatchJobsArgs),
}

/// `worker jobs list`.
#[derive(Debug, Args)]
pub struct ListJobsArgs {
    /// Only jobs in this status: queued, provisioning, running or failed.
    #[arg(long)]
    pub status: Option<String>,
    /// Only jobs whose id has this in it, whatever its case, or whose run's id it is.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only jobs that were first heard of within this time, such as 2h.
    #[arg(long, value_name = "DURATION")]
    pub since: Option<String>,
    /// Only jobs that come behind this one, such as the last one of the list before.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// What lists share.
    #[command(flatten)]
    pub list: ListArgs,
}

/// A checked `worker jobs list`.
#[derive(Debug)]
pub struct ListJobs {
    /// The database.
    pub database: DatabaseUrl,
    /// Only jobs in this status, where said.
    pub status: Option<Status>,
    /// Only jobs whose id has this in it, or whose run's id it is.
    pub search: Option<String>,
    /// Only jobs that were first heard of within this time.
    pub since: Option<Duration>,
    /// Only jobs that come behind this one.
    pub after: Option<String>,
    /// How many at the most.
    pub limit: u64,
    /// Whether to print JSON.
    pub json: bool,
}

/// `worker jobs watch`.
#[derive(Debug, Args)]
pub struct WatchJobsArgs {
    /// The job; it need not be known yet.
    pub id: Option<String>,
    /// For how long to watch a job at the most, such as 20m; exits 3 then.
    #[arg(long, value_name = "DURATION", requires = "id")]
    pub timeout: Option<String>,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Print JSON objects, one a line, instead of a table or sentences.
    #[arg(long)]
    pub json: bool,
}

/// A checked `worker jobs watch`.
#[derive(Debug)]
pub struct WatchJobs {
    /// The database.
    pub database: DatabaseUrl,
    /// The one job, if it is only one.
    pub id: Option<String>,
    /// For how long at the most.
    pub timeout: Option<Duration>,
    /// Whether to print JSON.
    pub json: bool,
}

impl WatchJobsArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<WatchJobs, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let timeout = optional(&mut problems, "--timeout", self.timeout.as_deref(), duration);
        let checked = database.zip(timeout).map(|(database, timeout)| WatchJobs {
            database,
            id: self.id.clone(),
            timeout,
            json: self.json,
        });
        problems.finish(checked)
    }
}

impl ListJobsArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<ListJobs, Invalid> {
        let mut problems = Problems::default();
        let list = self.list.check(&mut problems);
        let status =
            optional(&mut problems, "--status", self.status.as_deref(), |text| text.parse());
        let since = optional(&mut problems, "--since", self.since.as_deref(), duration);
        let checked = (|| {
            let (database, limit) = list?;
            Some(ListJobs {
                database,
                status: status?,
                search: self.search.clone(),
                since: since?,
                after: self.after.clone(),
                limit,
                json: self.list.read.json,
            })
        })();
        problems.finish(checked)
    }
}
