//! `worker status`.

use clap::Args;
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems};

use super::ReadArgs;
use super::run::IngressArgs;
use crate::store::connection::DatabaseUrl;

/// `worker status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The broker; that it can't be reached is one of the things that are said.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// The ingresses.
    #[command(flatten)]
    pub ingresses: IngressArgs,
    /// The database and the form of the output.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// A checked `worker status`.
#[derive(Debug)]
pub struct Status {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// The ops listeners of ingresses.
    pub ingresses: Vec<String>,
    /// Whether to print JSON.
    pub json: bool,
}

impl StatusArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Status, Invalid> {
        let mut problems = Problems::default();
        let database = self.read.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let ingresses = self.ingresses.check(&mut problems);
        let checked = (|| {
            Some(Status {
                database: database?,
                servers: servers?,
                ingresses: ingresses?,
                json: self.read.json,
            })
        })();
        problems.finish(checked)
    }
}
