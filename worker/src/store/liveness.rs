//! Which jobs are silent.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, IntoCondition, Query, SelectStatement, UnionType};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbErr, EntityTrait, FromQueryResult, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select,
};

use crate::entity::{dead_letter, job};

/// A job that has been silent for too long, and the position of its last sign of life.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Silent {
    /// The job.
    pub id: String,
    /// The stream sequence of its last sign of life.
    pub last_seq: i64,
    /// Its index in the bundle.
    pub last_idx: i32,
}

/// What counts as silent. Times are those of the stream.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A job in `provisioning` without a timeout of its own, if it was last heard before this; none
    /// for no such job.
    pub heard_before: Option<DateTime<Utc>>,
    /// A `queued` job, if it was last heard before this; none for no such job.
    pub queued_before: Option<DateTime<Utc>>,
    /// A job with a timeout of its own, if that has expired by now …
    pub now: DateTime<Utc>,
    /// … and is at most this long, in seconds.
    pub longest_own_s: i64,
}

/// The silent jobs of a partition, at most `max`. They are the beginnings of ranges of the index
/// `jobs_silence`, so jobs that are not silent cost nothing. The index has only jobs without a
/// `finished_at`, and the databases use it only for a query that says so.
pub async fn silent(
    db: &DatabaseConnection,
    partition: i32,
    limits: Limits,
    max: u64,
) -> Result<Vec<Silent>, DbErr> {
    Silent::find_by_statement(
        db.get_database_backend().build(&silent_statement(partition, limits, max)),
    )
    .all(db)
    .await
}

/// The statement of [`silent`], so that its plan can be explained.
#[must_use]
pub fn silent_statement(partition: i32, limits: Limits, max: u64) -> SelectStatement {
    use job::{Column, Status};
    let of = |status: Status, condition: Condition| {
        let mut select = job::Entity::find()
            .select_only()
            .columns([Column::Id, Column::LastSeq, Column::LastIdx])
            .filter(Column::Partition.eq(partition))
            .filter(Column::Status.eq(status))
            .filter(Column::FinishedAt.is_null())
            .filter(condition)
            .into_query();
        // A callback that is held behind a dead letter may be a sign of life. Looked for job by job:
        // a join might read all dead letters.
        let held = Query::select()
            .expr(Expr::val(1))
            .from(dead_letter::Entity)
            .and_where(dead_letter::Column::JobId.into_expr().equals((job::Entity, Column::Id)))
            .and_where(dead_letter::Column::State.is_in(dead_letter::State::WAITING))
            .limit(1)
            .take();
        select.and_where(Expr::from(held).is_null()).take()
    };
    let by_worker = |before: DateTime<Utc>| {
        Condition::all().add(Column::PresumeAt.is_null()).add(Column::UpdatedAt.lte(before))
    };
    let own = Condition::all()
        .add(Column::PresumeAt.lte(limits.now))
        .add(Column::HeartbeatTimeoutS.lte(limits.longest_own_s));
    let mut select = of(Status::Provisioning, own);
    for (status, before) in
        [(Status::Provisioning, limits.heard_before), (Status::Queued, limits.queued_before)]
    {
        if let Some(before) = before {
            select.union(UnionType::All, of(status, by_worker(before)));
        }
    }
    select.limit(max).take()
}

/// The earliest times that decide when a partition's jobs can become silent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromQueryResult)]
pub struct Soonest {
    /// The oldest sign of life of a job in `provisioning` without a timeout of its own.
    pub heard: Option<DateTime<Utc>>,
    /// The oldest sign of life of a `queued` job.
    pub queued: Option<DateTime<Utc>>,
    /// When the first timeout of a job's own expires.
    pub own: Option<DateTime<Utc>>,
}

/// Reads the beginnings of three ranges of the index `jobs_silence`.
pub async fn soonest(db: &DatabaseConnection, partition: i32) -> Result<Soonest, DbErr> {
    let statement = db.get_database_backend().build(&soonest_statement(partition));
    Ok(Soonest::find_by_statement(statement).one(db).await?.unwrap_or_default())
}

/// The statement of [`soonest`], so that its plan can be explained.
#[must_use]
pub fn soonest_statement(partition: i32) -> SelectStatement {
    use job::{Column, Status};
    let of = || Column::Partition.eq(partition);
    let heard = |status: Status| {
        first_heard(status, of(), 1).select_only().column(Column::UpdatedAt).into_query()
    };
    let own = job::Entity::find()
        .select_only()
        .expr(Column::PresumeAt.min())
        .filter(of())
        .filter(Column::Status.eq(Status::Provisioning))
        .filter(Column::FinishedAt.is_null())
        .filter(Column::PresumeAt.is_not_null())
        .into_query();
    Query::select()
        .expr_as(heard(Status::Provisioning), "heard")
        .expr_as(heard(Status::Queued), "queued")
        .expr_as(own, "own")
        .take()
}

/// The jobs of a partition and a status, without a timeout of their own, that were heard the longest
/// ago. PostgreSQL knows that the index has this order only if the constant column is part of it.
pub(super) fn first_heard(
    status: job::Status,
    partition: impl IntoCondition,
    limit: u64,
) -> Select<job::Entity> {
    use job::Column;
    job::Entity::find()
        .filter(partition)
        .filter(Column::Status.eq(status))
        .filter(Column::FinishedAt.is_null())
        .filter(Column::PresumeAt.is_null())
        .order_by_asc(Column::PresumeAt)
        .order_by_asc(Column::UpdatedAt)
        .limit(limit)
}
