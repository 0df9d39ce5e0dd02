//! The schema, as forward-only steps. A step that has been released is never edited.

mod m20261101_000001_first;
mod m20261123_000002_gaps;
mod m20261123_000003_replay;

use sea_orm_migration::prelude::*;

/// All steps, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261101_000001_first::Migration),
            Box::new(m20261123_000002_gaps::Migration),
            Box::new(m20261123_000003_replay::Migration),
        ]
    }
}
