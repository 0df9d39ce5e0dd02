//! One file a command: its settings, what it does, and how it prints.

pub mod audit;
pub mod dead_letters;
pub mod jobs;
pub mod migrate;
pub mod move_streams;
pub mod partitions;
pub mod prune;
pub mod rebuild;
pub mod send;
pub mod sign;
pub mod status;
pub mod up;
pub mod watch;

use anyhow::Context;
use async_nats::jetstream;
use clap::Args;
use sea_orm::DatabaseConnection;
use shared::broker::{BrokerArgs, Servers};
use shared::settings::{Invalid, Problems, number};
use worker::process::settings::DatabaseArgs;
use worker::store::connection::{self, DatabaseUrl, Purpose};
use worker::store::schema;

/// What the reading commands share.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The database.
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What the commands share that need the database and the broker.
#[derive(Debug, Args)]
pub struct SystemArgs {
    /// The broker.
    #[command(flatten)]
    broker: BrokerArgs,
    /// The database and the form of the output.
    #[command(flatten)]
    read: ReadArgs,
}

/// What the commands that list rows share.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How many at the most.
    #[arg(long, default_value = "50", value_parser = |text: &str| number::<u64>(text, 1, 10_000))]
    limit: u64,
    /// The database and the form of the output.
    #[command(flatten)]
    read: ReadArgs,
}

impl ReadArgs {
    /// Opens the database to read it.
    async fn open(&self) -> anyhow::Result<DatabaseConnection> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        open(&problems.finish(database)?, Purpose::Read).await
    }
}

impl SystemArgs {
    /// Where the database and the broker are.
    fn check(&self) -> Result<(DatabaseUrl, Servers), Invalid> {
        checked(&self.read.database, &self.broker)
    }

    /// Opens the database and connects to the broker.
    async fn open(
        &self,
        purpose: Purpose,
    ) -> anyhow::Result<(DatabaseConnection, jetstream::Context)> {
        let (database, servers) = self.check()?;
        let db = open(&database, purpose).await?;
        Ok((db, broker(&servers).await?))
    }
}

/// Where the database and the broker are.
fn checked(
    database: &DatabaseArgs,
    broker: &BrokerArgs,
) -> Result<(DatabaseUrl, Servers), Invalid> {
    let mut problems = Problems::default();
    let database = database.check(&mut problems);
    let servers = broker.check(&mut problems);
    problems.finish(database.zip(servers))
}

/// Opens a database that was migrated.
async fn open(database: &DatabaseUrl, purpose: Purpose) -> anyhow::Result<DatabaseConnection> {
    let db = connect(database, purpose).await?;
    schema::check(&db).await?;
    Ok(db)
}

/// Connects to a database, whatever is in it.
async fn connect(database: &DatabaseUrl, purpose: Purpose) -> anyhow::Result<DatabaseConnection> {
    let connected = connection::connect(database, purpose).await;
    connected.context("the database can't be reached (--database-url)")
}

/// Connects to the broker in the workers' role.
async fn broker(servers: &Servers) -> anyhow::Result<jetstream::Context> {
    Ok(jetstream::new(broker_client(servers, "worker").await?))
}

/// Connects to the broker in this role.
async fn broker_client(servers: &Servers, role: &str) -> anyhow::Result<async_nats::Client> {
    let connected = servers.connect(role).await;
    connected.with_context(|| format!("the broker at {servers} can't be reached (--nats-url)"))
}
