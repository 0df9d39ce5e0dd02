//! `worker partitions`.

use clap::{Args, Subcommand};
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems, number};
use shared::partition::MAX_PARTITIONS;

use super::DatabaseArgs;
use crate::store::connection::DatabaseUrl;

/// `worker partitions`.
#[derive(Debug, Subcommand)]
pub enum PartitionsCommand {
    /// List partitions: who owns each, how far it is applied, and why it is stopped.
    List(ListPartitionsArgs),
    /// Let a stopped partition go on from its stream as it is. Without --yes, only say what that
    /// would skip.
    Accept(AcceptArgs),
}

/// `worker partitions list`.
#[derive(Debug, Args)]
pub struct ListPartitionsArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker; the streams' positions are left out while it can't be reached.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `worker partitions accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The partition's number.
    pub partition: String,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Do it.
    #[arg(long)]
    pub yes: bool,
    /// Print JSON instead of sentences.
    #[arg(long)]
    pub json: bool,
}

/// A checked `worker partitions list`.
#[derive(Debug)]
pub struct ListPartitions {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to print JSON.
    pub json: bool,
}

/// A checked `worker partitions accept`.
#[derive(Debug)]
pub struct Accept {
    /// The partition.
    pub partition: u16,
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to do it.
    pub yes: bool,
    /// Whether to print JSON.
    pub json: bool,
}

impl ListPartitionsArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<ListPartitions, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let checked = database.zip(servers).map(|(database, servers)| ListPartitions {
            database,
            servers,
            json: self.json,
        });
        problems.finish(checked)
    }
}

impl AcceptArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Accept, Invalid> {
        let mut problems = Problems::default();
        let partition =
            problems.take("the partition", number(&self.partition, 0, MAX_PARTITIONS - 1));
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let checked = (|| {
            Some(Accept {
                partition: partition?,
                database: database?,
                servers: servers?,
                yes: self.yes,
                json: self.json,
            })
        })();
        problems.finish(checked)
    }
}
