//! What a replay and an audit need besides the stream.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::ColumnType;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, name, kind, default) in [
            ("dead_letters", "refusals", ColumnType::Integer, 1),
            ("partitions", "rules_from_seq", ColumnType::BigInteger, 0),
        ] {
            let column = ColumnDef::new_with_type(name, kind).not_null().default(default).take();
            let table = Table::alter().table(table).add_column(column).take();
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}
