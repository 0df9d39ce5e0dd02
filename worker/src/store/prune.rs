//! Removes finished jobs that nothing needs any more.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, SelectStatement};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait, Select,
};

use shared::partition::Partition;

use super::connection::begin;
use super::read::of_job;
use crate::entity::{dead_letter, job, job_event, partition};

/// Where the examination of a partition's jobs in one finished status has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// When the last examined job changed.
    pub updated_at: DateTime<Utc>,
    /// Its id, which orders jobs of the same moment.
    pub id: String,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows of `jobs`.
    pub jobs: u64,
    /// Their rows of `job_events`.
    pub events: u64,
}

/// How many finished jobs have not changed since `cutoff`.
pub async fn count(db: &DatabaseConnection, cutoff: DateTime<Utc>) -> Result<u64, DbErr> {
    old_enough(cutoff).count(db).await
}

/// Jobs of a partition in a finished status that have not changed since `cutoff`, the oldest first,
/// after the given one. They are the beginning of a range of the index `jobs_finished`, so younger
/// jobs cost nothing.
pub async fn candidates(
    db: &DatabaseConnection,
    (partition, status): (i32, job::Status),
    cutoff: DateTime<Utc>,
    after: Option<&Cursor>,
    limit: u64,
) -> Result<Vec<Cursor>, DbErr> {
    let statement = candidates_statement((partition, status), cutoff, after, limit);
    let found = db.query_all(&statement).await?;
    let cursor = |row: &QueryResult| {
        Ok(Cursor { updated_at: row.try_get("", "updated_at")?, id: row.try_get("", "id")? })
    };
    found.iter().map(cursor).collect()
}

/// The statement of [`candidates`], so that its plan can be explained.
#[must_use]
pub fn candidates_statement(
    (partition, status): (i32, job::Status),
    cutoff: DateTime<Utc>,
    after: Option<&Cursor>,
    limit: u64,
) -> SelectStatement {
    use job::Column;
    let mut query = of_age(cutoff)
        .select_only()
        .columns([Column::Id, Column::UpdatedAt])
        .filter(Column::Partition.eq(partition))
        .filter(Column::Status.eq(status));
    if let Some(after) = after {
        let key = Expr::tuple([Expr::col(Column::UpdatedAt), Expr::col(Column::Id)]);
        let bound = Expr::tuple([Expr::value(after.updated_at), Expr::value(after.id.as_str())]);
        query = query.filter(key.gt(bound));
    }
    query.order_by_asc(Column::UpdatedAt).order_by_asc(Column::Id).limit(limit).into_query()
}

/// The statuses of jobs that can be removed.
pub fn statuses() -> impl Iterator<Item = job::Status> {
    job::Status::all().filter(|status| status.is_finished())
}

fn old_enough(cutoff: DateTime<Utc>) -> Select<job::Entity> {
    of_age(cutoff).filter(job::Column::Status.is_in(statuses()))
}

/// Finished jobs in the words of the index `jobs_finished`, without which no database uses it.
fn of_age(cutoff: DateTime<Utc>) -> Select<job::Entity> {
    use job::Column;
    job::Entity::find()
        .filter(Column::FinishedAt.is_not_null())
        .filter(Column::UpdatedAt.lt(cutoff))
}

/// Removes, of these jobs that belong to one partition, those without a dead letter and without a
/// message in the stream; with their events, in one transaction. `first_seq` is the first sequence
/// that the stream still holds. A dry run only counts. Nothing is removed when the database has gone
/// over to another generation meanwhile.
///
/// # Errors
/// The database failed; nothing has changed.
pub async fn remove(
    db: &DatabaseConnection,
    home: Partition,
    ids: &[String],
    cutoff: DateTime<Utc>,
    first_seq: i64,
    dry_run: bool,
) -> Result<Removed, DbErr> {
    let transaction = begin(db).await?;
    // Every batch begins by updating this row, so no owner folds one of these jobs meanwhile.
    let row = partition::Entity::find_by_id(i32::from(home.number()))
        .filter(partition::Column::Generation.eq(home.layout().generation()))
        .lock_exclusive()
        .one(&transaction)
        .await?;
    let Some(row) = row else { return Ok(Removed::default()) };
    let bound = Ord::min(first_seq, row.applied_seq);

    let still_stored = of_job::<job_event::Entity>(job_event::Column::JobId)
        .filter(job_event::Column::Seq.gte(bound));
    // A discarded letter is decided, and stays on record without its job.
    let waiting = of_job::<dead_letter::Entity>(dead_letter::Column::JobId)
        .filter(dead_letter::Column::State.is_in(dead_letter::State::WAITING));
    let ids: Vec<String> = old_enough(cutoff)
        .select_only()
        .column(job::Column::Id)
        .filter(job::Column::Id.is_in(ids))
        .filter(job::Column::LastSeq.lt(bound))
        .filter(Expr::exists(still_stored.into_query()).not())
        .filter(Expr::exists(waiting.into_query()).not())
        .into_tuple()
        .all(&transaction)
        .await?;
    let of_jobs = job_event::Column::JobId.is_in(&ids);
    if dry_run {
        let events = job_event::Entity::find().filter(of_jobs).count(&transaction).await?;
        return Ok(Removed { jobs: ids.len() as u64, events });
    }
    let events = job_event::Entity::delete_many().filter(of_jobs).exec(&transaction).await?;
    let jobs =
        job::Entity::delete_many().filter(job::Column::Id.is_in(&ids)).exec(&transaction).await?;
    transaction.commit().await?;
    Ok(Removed { jobs: jobs.rows_affected, events: events.rows_affected })
}
