//! `worker audit`.

use clap::Args;
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems};

use super::ReadArgs;
use crate::store::connection::DatabaseUrl;

/// `worker audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The broker, whose streams say what must have been applied.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// The database and the form of the output.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// A checked `worker audit`.
#[derive(Debug)]
pub struct Audit {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to print JSON.
    pub json: bool,
}

impl AuditArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Audit, Invalid> {
        let mut problems = Problems::default();
        let database = self.read.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let json = self.read.json;
        let checked = database.zip(servers);
        problems.finish(checked.map(|(database, servers)| Audit { database, servers, json }))
    }
}
