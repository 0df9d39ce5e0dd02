//! `worker jobs`.

use clap::{Args, Subcommand};
use shared::config::{Invalid, Problems};

use super::{ListArgs, ReadArgs, optional};
use crate::entity::job::Status;
use crate::store::connection::DatabaseUrl;

/// `worker jobs`.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, the ones that changed last first.
    List(ListJobsArgs),
    /// Show one job with its timeline.
    Show {
        /// The job's id.
        id: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// `worker jobs list`.
#[derive(Debug, Args)]
pub struct ListJobsArgs {
    /// Only jobs in this status: queued, provisioning, running or failed.
    #[arg(long)]
    pub status: Option<String>,
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
    /// How many at the most.
    pub limit: u64,
    /// Whether to print JSON.
    pub json: bool,
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
        let json = self.list.read.json;
        let checked = list.zip(status).map(|((database, limit), status)| ListJobs {
            database,
            status,
            limit,
            json,
        });
        problems.finish(checked)
    }
}
