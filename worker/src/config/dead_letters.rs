//! `worker dead-letters`.

use std::time::Duration;

use clap::{Args, Subcommand};
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems, duration};

use super::{ListArgs, ReadArgs};
use crate::redrive::Place;
use crate::store::connection::DatabaseUrl;

/// `worker dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters and what is held behind them, oldest first.
    List(ListDeadLettersArgs),
    /// Show one with its payload.
    Show {
        /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
        position: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Try one again, and then what is held behind it, in order.
    Requeue(OrderArgs),
    /// Let one take no effect, and apply what is held behind it, in order.
    Discard(OrderArgs),
}

/// `worker dead-letters list`.
#[derive(Debug, Args)]
pub struct ListDeadLettersArgs {
    /// Only those of this job.
    #[arg(long)]
    pub job: Option<String>,
    /// Discarded ones, too.
    #[arg(long)]
    pub discarded: bool,
    /// What lists share.
    #[command(flatten)]
    pub list: ListArgs,
}

impl ListDeadLettersArgs {
    /// Checks every value: the database and the limit.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<(DatabaseUrl, u64), Invalid> {
        let mut problems = Problems::default();
        let checked = self.list.check(&mut problems);
        problems.finish(checked)
    }
}

/// `worker dead-letters requeue` and `discard`.
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
    pub position: String,
    /// The broker, through which the owner of the partition is told.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// How long to wait until it is carried out.
    #[arg(long, default_value = "10s")]
    pub wait: String,
    /// The database and the form of the output.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// A checked order.
#[derive(Debug)]
pub struct PlacedOrder {
    /// The dead letter.
    pub place: Place,
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// How long to wait.
    pub wait: Duration,
    /// Whether to print JSON.
    pub json: bool,
}

impl OrderArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<PlacedOrder, Invalid> {
        let mut problems = Problems::default();
        let place = problems.take("the position", self.position.parse());
        let database = self.read.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let wait = problems.take("--wait", duration(&self.wait));
        let json = self.read.json;
        let checked = (|| {
            Some(PlacedOrder {
                place: place?,
                database: database?,
                servers: servers?,
                wait: wait?,
                json,
            })
        })();
        problems.finish(checked)
    }
}
