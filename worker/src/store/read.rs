//! What the commands for people read. Nothing here writes.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use crate::entity::{job, job_event};

/// Jobs, the ones that changed last first.
///
/// # Errors
/// When the database fails.
pub async fn jobs(
    db: &impl ConnectionTrait,
    status: Option<job::Status>,
    limit: u64,
) -> Result<Vec<job::Model>, DbErr> {
    let mut query = job::Entity::find();
    if let Some(status) = status {
        query = query.filter(job::Column::Status.eq(status));
    }
    query
        .order_by_desc(job::Column::UpdatedAt)
        .order_by_asc(job::Column::Id)
        .limit(limit)
        .all(db)
        .await
}

/// One job.
///
/// # Errors
/// When the database fails.
pub async fn job(db: &impl ConnectionTrait, id: &str) -> Result<Option<job::Model>, DbErr> {
    job::Entity::find_by_id(id).one(db).await
}

/// A job's events, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn events(
    db: &impl ConnectionTrait,
    job_id: &str,
) -> Result<Vec<job_event::Model>, DbErr> {
    job_event::Entity::find()
        .filter(job_event::Column::JobId.eq(job_id))
        .order_by_asc(job_event::Column::Seq)
        .order_by_asc(job_event::Column::Idx)
        .all(db)
        .await
}
