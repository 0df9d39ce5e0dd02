//! For the console: how much of each partition was applied and when, and jobs by age.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::ColumnType;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = |name: &'static str, kind| ColumnDef::new_with_type(name, kind);
        for column in [
            column("applied_callbacks", ColumnType::BigInteger).not_null().default(0).take(),
            column("applied_at", ColumnType::TimestampWithTimeZone),
            column("applied_received_at", ColumnType::TimestampWithTimeZone),
        ] {
            let table = Table::alter().table("partitions").add_column(column).take();
            manager.alter_table(table).await?;
        }
        // A list of jobs, of one status or of all, is read from the ends of its ranges.
        let index = Index::create()
            .name("jobs_age")
            .table("jobs")
            .col("status")
            .col("created_at")
            .col("id")
            .take();
        manager.create_index(index).await
    }
}
