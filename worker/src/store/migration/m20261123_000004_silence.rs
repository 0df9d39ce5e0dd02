//! What the search for silent jobs needs.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::ColumnType;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, name, kind) in [
            ("jobs", "heartbeat_timeout_s", ColumnType::Integer),
            ("jobs", "presume_at", ColumnType::TimestampWithTimeZone),
            ("partitions", "watched_since", ColumnType::TimestampWithTimeZone),
            ("partitions", "watched_until", ColumnType::TimestampWithTimeZone),
        ] {
            let column = ColumnDef::new_with_type(name, kind);
            let table = Table::alter().table(table).add_column(column).take();
            manager.alter_table(table).await?;
        }
        // In this order every silent job is at the beginning of a range: `presume_at` is null where
        // `updated_at` decides.
        let index = Index::create()
            .name("jobs_silence")
            .table("jobs")
            .col("partition")
            .col("status")
            .col("presume_at")
            .col("updated_at")
            .take();
        manager.create_index(index).await
    }
}
