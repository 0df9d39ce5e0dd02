//! Removes finished jobs that nothing needs any more.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select,
};

use super::connection::begin;
use super::read::of_job;
use crate::entity::{dead_letter, job, job_event, partition};

/// A finished job that is old enough.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its partition.
    pub partition: i32,
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

/// Finished jobs that have not changed since `cutoff`, by id, after the given one.
pub async fn candidates(
    db: &DatabaseConnection,
    cutoff: DateTime<Utc>,
    after: &str,
    limit: u64,
) -> Result<Vec<Candidate>, DbErr> {
    use job::Column;
    let rows: Vec<(String, i32)> = old_enough(cutoff)
        .select_only()
        .columns([Column::Id, Column::Partition])
        .filter(Column::Id.gt(after))
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|(id, partition)| Candidate { id, partition }).collect())
}

fn old_enough(cutoff: DateTime<Utc>) -> Select<job::Entity> {
    use job::Column;
    let finished = job::Status::all().filter(|status| status.is_finished());
    job::Entity::find().filter(Column::Status.is_in(finished)).filter(Column::UpdatedAt.lt(cutoff))
}

/// Removes, of these jobs of one partition, those without a dead letter and without a message in
/// the stream; with their events, in one transaction. `first_seq` is the first sequence that the
/// stream still holds. A dry run only counts.
///
/// # Errors
/// The database failed; nothing has changed.
pub async fn remove(
    db: &DatabaseConnection,
    number: i32,
    ids: &[String],
    cutoff: DateTime<Utc>,
    first_seq: i64,
    dry_run: bool,
) -> Result<Removed, DbErr> {
    let transaction = begin(db).await?;
    // Every batch begins by updating this row, so no owner folds one of these jobs meanwhile.
    let row = partition::Entity::find_by_id(number).lock_exclusive().one(&transaction).await?;
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
        .filter(job::Column::Partition.eq(number))
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
