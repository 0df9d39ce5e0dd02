//! The gaps that operators accepted.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::ColumnType;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let required = |name: &'static str, kind: ColumnType| {
            ColumnDef::new_with_type(name, kind).not_null().take()
        };
        let gaps = Table::create()
            .table("partition_gaps")
            .col(required("partition", ColumnType::Integer))
            .col(required("from_seq", ColumnType::BigInteger))
            .col(required("to_seq", ColumnType::BigInteger))
            .col(required("reason", ColumnType::Text))
            .col(required("stream_created_at", ColumnType::TimestampWithTimeZone))
            .col(required("accepted_at", ColumnType::TimestampWithTimeZone))
            .primary_key(Index::create().col("partition").col("from_seq"))
            .take();
        manager.create_table(gaps).await?;
        let accepted = Table::alter()
            .table("partitions")
            .add_column(ColumnDef::new_with_type("accepted_seq", ColumnType::BigInteger))
            .take();
        manager.alter_table(accepted).await
    }
}
