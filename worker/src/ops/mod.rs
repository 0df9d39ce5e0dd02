//! The commands of those who run Ackline.

pub mod dead_letters;
pub mod jobs;
pub mod migrate;
pub mod partitions;
mod print;
pub mod prune;

use anyhow::Context;
use sea_orm::DatabaseConnection;

use crate::store::connection::{self, DatabaseUrl, Purpose};
use crate::store::schema;

/// Opens a database to look into it.
async fn open(database: &DatabaseUrl) -> anyhow::Result<DatabaseConnection> {
    let db = connection::connect(database, Purpose::Read)
        .await
        .context("the database can't be reached")?;
    schema::check(&db).await?;
    Ok(db)
}
