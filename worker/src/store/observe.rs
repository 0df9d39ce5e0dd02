//! Counts for metrics, console and API: jobs and dead letters, by partition.

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect,
};

use serde::Serialize;
use utoipa::ToSchema;

use super::partitions::clock;
use crate::entity::{dead_letter, job};

/// How many jobs one partition has in one status.
#[derive(Debug, FromQueryResult)]
pub struct Counted {
    /// The partition.
    pub partition: i32,
    /// The status.
    pub status: job::Status,
    /// How many there are.
    pub jobs: i64,
    /// The oldest `updated_at` among them.
    pub oldest: DateTime<Utc>,
    /// Now, by the database's clock.
    pub now: DateTime<Utc>,
}

/// Counts all jobs by partition and status; combinations without a job are left out. Reads an index
/// entry for every job.
pub async fn jobs(db: &DatabaseConnection) -> Result<Vec<Counted>, DbErr> {
    use job::Column;
    job::Entity::find()
        .select_only()
        .column(Column::Partition)
        .column(Column::Status)
        .column_as(Column::Id.count(), "jobs")
        .column_as(Column::UpdatedAt.min(), "oldest")
        .expr_as(clock(db.get_database_backend(), std::time::Duration::ZERO), "now")
        .group_by(Column::Partition)
        .group_by(Column::Status)
        .into_model()
        .all(db)
        .await
}

/// A job in `provisioning`, and when it was last heard.
#[derive(Debug, Clone, FromQueryResult, Serialize, ToSchema)]
pub struct Quiet {
    /// The job.
    pub id: String,
    /// When it was last heard.
    pub updated_at: DateTime<Utc>,
}

/// The jobs in `provisioning` that have been silent for longest. Reads every job in `provisioning`.
pub async fn quietest(db: &DatabaseConnection, limit: u64) -> Result<Vec<Quiet>, DbErr> {
    use job::Column;
    job::Entity::find()
        .select_only()
        .columns([Column::Id, Column::UpdatedAt])
        .filter(Column::Status.eq(job::Status::Provisioning))
        .filter(Column::FinishedAt.is_null())
        .order_by_asc(Column::UpdatedAt)
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_model()
        .all(db)
        .await
}

/// How many dead letters one partition has in one state.
#[derive(Debug, FromQueryResult)]
pub struct Letters {
    /// The partition.
    pub partition: i32,
    /// The state.
    pub state: dead_letter::State,
    /// How many there are.
    pub letters: i64,
}

/// Counts dead letters, except discarded ones.
pub async fn dead_letters(db: &DatabaseConnection) -> Result<Vec<Letters>, DbErr> {
    use dead_letter::Column;
    dead_letter::Entity::find()
        .select_only()
        .column(Column::Partition)
        .column(Column::State)
        .column_as(Column::Seq.count(), "letters")
        .filter(Column::State.ne(dead_letter::State::Discarded))
        .group_by(Column::Partition)
        .group_by(Column::State)
        .into_model()
        .all(db)
        .await
}
