//! `worker prune`.

use std::time::Duration;

use clap::Args;
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems, duration};

use super::DatabaseArgs;
use crate::store::connection::DatabaseUrl;

/// `worker prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker: what its streams still hold is kept.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// For how long a job must not have changed, such as 30d.
    #[arg(long)]
    pub older_than: String,
    /// Only count.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// A checked `worker prune`.
#[derive(Debug)]
pub struct Prune {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// For how long a job must not have changed.
    pub older_than: Duration,
    /// Whether to only count.
    pub dry_run: bool,
    /// Whether to print JSON.
    pub json: bool,
}

impl PruneArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Prune, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let older_than = problems.take("--older-than", duration(&self.older_than));
        let checked = (|| {
            Some(Prune {
                database: database?,
                servers: servers?,
                older_than: older_than?,
                dry_run: self.dry_run,
                json: self.json,
            })
        })();
        problems.finish(checked)
    }
}
