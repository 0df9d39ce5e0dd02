//! `worker rebuild`.

use clap::Args;
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems};

use super::DatabaseArgs;
use crate::store::connection::DatabaseUrl;

/// `worker rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// The database: an empty one, unless --dry-run.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Begin with what the streams still hold, although their first messages were purged. What is
    /// gone is on record.
    #[arg(long, conflicts_with = "job")]
    pub partial: bool,
    /// Fold only this job, and show how it differs from its row. Needs --dry-run.
    #[arg(long, value_name = "ID", requires = "dry_run")]
    pub job: Option<String>,
    /// Change nothing. Needs --job.
    #[arg(long, requires = "job")]
    pub dry_run: bool,
    /// Print JSON instead of sentences.
    #[arg(long)]
    pub json: bool,
}

/// A checked `worker rebuild`.
#[derive(Debug)]
pub struct Rebuild {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to go on without what is gone from the streams.
    pub partial: bool,
    /// The one job to look at, if it is only one.
    pub job: Option<String>,
    /// Whether to print JSON.
    pub json: bool,
}

impl RebuildArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Rebuild, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let checked = database.zip(servers).map(|(database, servers)| Rebuild {
            database,
            servers,
            partial: self.partial,
            job: self.job.clone(),
            json: self.json,
        });
        problems.finish(checked)
    }
}
