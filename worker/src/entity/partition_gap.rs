//! `partition_gaps`: messages that were gone from a stream before they were applied, and that an
//! operator let the partition skip. Rows are only ever added.

use sea_orm::entity::prelude::*;
use serde::Serialize;

/// One gap.
#[sea_orm::model]
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "partition_gaps")]
pub struct Model {
    /// The partition.
    #[sea_orm(primary_key, auto_increment = false)]
    pub partition: i32,
    /// The first sequence that was skipped.
    #[sea_orm(primary_key, auto_increment = false)]
    pub from_seq: i64,
    /// The last one.
    pub to_seq: i64,
    /// Why the partition was stopped.
    #[sea_orm(column_type = "Text")]
    pub reason: String,
    /// When the stream was created.
    pub stream_created_at: DateTimeUtc,
    /// When it was accepted, by the database's clock.
    pub accepted_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
