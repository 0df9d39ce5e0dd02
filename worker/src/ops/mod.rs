//! The commands of those who run Ackline.

pub mod audit;
mod bars;
pub mod dead_letters;
pub mod jobs;
pub mod migrate;
mod output;
pub mod partitions;
mod print;
pub mod prune;
pub mod rebuild;
pub mod status;
pub mod watch;

pub use bars::Bars;
pub use output::Output;

use anyhow::Context;
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use shared::broker::Servers;

use crate::store::connection::{self, DatabaseUrl, Purpose};
use crate::store::schema;

/// Opens a database that was migrated.
async fn open(database: &DatabaseUrl, purpose: Purpose) -> anyhow::Result<DatabaseConnection> {
    let db =
        connection::connect(database, purpose).await.context("the database can't be reached")?;
    schema::check(&db).await?;
    Ok(db)
}

/// Connects to the broker in the workers' role.
async fn broker(servers: &Servers) -> anyhow::Result<jetstream::Context> {
    let client = servers
        .connect("worker")
        .await
        .with_context(|| format!("the broker at {servers} can't be reached"))?;
    Ok(jetstream::new(client))
}
