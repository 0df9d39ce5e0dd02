//! `workers`: the processes that are alive.

use sea_orm::entity::prelude::*;
use serde::Serialize;

/// One worker process.
#[sea_orm::model]
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "workers")]
pub struct Model {
    /// The process's random id, as in `partitions.owner`.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub id: String,
    /// Its name for people (`WORKER_ID`).
    #[sea_orm(column_type = "Text")]
    pub name: String,
    /// Since when it has been alive without a gap, by the database's clock.
    pub alive_since: DateTimeUtc,
    /// It counts as alive until this time, by the database's clock.
    pub alive_until: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
