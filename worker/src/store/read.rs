//! What people and programs read: jobs and their events, page by page. Nothing here writes.
//!
//! Pages follow keys instead of offsets: the thousandth page costs what the first does, and a job
//! that appears or disappears meanwhile shifts nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{
    Asterisk, Expr, ExprTrait, Func, LikeExpr, Query, SelectStatement, UnionType,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, Order,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
};

use super::partitions::clock;
use crate::entity::job::Status;
use crate::entity::{job, job_event};
use crate::rules::event::Position;

/// How many jobs a page of a search looks at.
pub const SEARCHED: u64 = 500_000;
/// How many events of a partition are read at a time: more than a message has callbacks.
const BETWEEN: usize = 500;

/// The time by the database's clock.
pub async fn now(db: &impl ConnectionTrait) -> Result<DateTime<Utc>, DbErr> {
    let statement =
        Query::select().expr_as(clock(db.get_database_backend(), Duration::ZERO), "now").to_owned();
    let row = db.query_one(&statement).await?;
    row.ok_or_else(|| DbErr::Custom("the database has no clock".into()))?.try_get("", "now")
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only those in this status.
    pub status: Option<Status>,
    /// Only those whose id contains this, in any case, or whose run id equals it.
    pub search: Option<String>,
    /// Only those first heard of at this time or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Only those first heard of before this time.
    pub created_before: Option<DateTime<Utc>>,
}

/// A job's place in lists, which are ordered newest first.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct JobKey {
    /// When the job was first heard of.
    pub created_at: DateTime<Utc>,
    /// Its id, which orders jobs of the same microsecond.
    pub id: String,
}

impl From<&job::Model> for JobKey {
    fn from(job: &job::Model) -> Self {
        Self { created_at: job.created_at, id: job.id.clone() }
    }
}

/// A page of jobs.
#[derive(Debug)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<job::Model>,
    /// After which job the next page begins; none if this is the last one. A page of a search may
    /// have fewer jobs than its limit, or none, and be followed by another.
    pub next: Option<JobKey>,
}

/// At most `limit` jobs after `after`, newest first. A search looks at `reach` jobs for a page.
pub async fn job_page(
    db: &impl ConnectionTrait,
    filter: &JobFilter,
    after: Option<&JobKey>,
    limit: u64,
    reach: u64,
) -> Result<JobPage, DbErr> {
    let end = match filter.search {
        None => None,
        Some(_) => {
            let statement = db.get_database_backend().build(&end_statement(filter, after, reach));
            JobKey::find_by_statement(statement).one(db).await?
        }
    };
    let statement = jobs_statement(filter, Range { after, end: end.as_ref() }, limit + 1);
    let statement = db.get_database_backend().build(&statement);
    let mut jobs = job::Model::find_by_statement(statement).all(db).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = if jobs.len() > limit {
        jobs.truncate(limit);
        jobs.last().map(JobKey::from)
    } else {
        end
    };
    Ok(JobPage { jobs, next })
}

/// A part of the list of jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range<'a> {
    /// The job that it begins after.
    pub after: Option<&'a JobKey>,
    /// The last job in it.
    pub end: Option<&'a JobKey>,
}

/// The statement that finds a page of jobs, so that its plan can be explained.
#[must_use]
pub fn jobs_statement(filter: &JobFilter, range: Range<'_>, limit: u64) -> SelectStatement {
    merge(filter.status, limit, |status| {
        let mut query = of_status(filter, status, range.after);
        if let Some(end) = range.end {
            query = query.filter(key().gte(value_of(end)));
        }
        if let Some(search) = &filter.search {
            let id = Func::lower(Expr::col(job::Column::Id));
            query = query.filter(
                Condition::any()
                    .add(Expr::expr(id).like(containing(&search.to_lowercase())))
                    .add(job::Column::WorkflowRunId.eq(search.as_str())),
            );
        }
        query
    })
}

/// The statement that finds the last job that a search looks at. It reads the index `jobs_age` only.
#[must_use]
pub fn end_statement(filter: &JobFilter, after: Option<&JobKey>, reach: u64) -> SelectStatement {
    use job::Column;
    merge(filter.status, reach, |status| {
        let query = of_status(filter, status, after);
        query.select_only().columns([Column::CreatedAt, Column::Id])
    })
    .limit(1)
    .offset(reach.saturating_sub(1))
    .take()
}

/// The first `limit` jobs of all statuses, or of one. Each status has its own range of the index
/// `jobs_age`, read from its end. The database merges them, because only it knows the collation by
/// which ids are compared.
fn merge(
    status: Option<Status>,
    limit: u64,
    range: impl Fn(Status) -> Select<job::Entity>,
) -> SelectStatement {
    use job::Column;
    let of = |status| {
        let range = range(status)
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit)
            .into_query();
        Query::select().column(Asterisk).from_subquery(range, "range").take()
    };
    let statuses = status.map_or_else(|| Status::all().collect(), |status| vec![status]);
    let ranges = statuses.into_iter().map(of);
    let union = |mut all: SelectStatement, one| all.union(UnionType::All, one).take();
    let mut select = ranges.reduce(union).unwrap_or_default();
    select.order_by(Column::CreatedAt, Order::Desc).order_by(Column::Id, Order::Desc);
    select.limit(limit).take()
}

fn of_status(filter: &JobFilter, status: Status, after: Option<&JobKey>) -> Select<job::Entity> {
    use job::Column;
    let mut query = job::Entity::find().filter(Column::Status.eq(status));
    if let Some(after) = after {
        query = query.filter(key().lt(value_of(after)));
    }
    if let Some(from) = filter.created_from {
        query = query.filter(Column::CreatedAt.gte(from));
    }
    if let Some(before) = filter.created_before {
        query = query.filter(Column::CreatedAt.lt(before));
    }
    query
}

fn key() -> Expr {
    Expr::tuple([Expr::col(job::Column::CreatedAt), Expr::col(job::Column::Id)])
}

fn value_of(key: &JobKey) -> Expr {
    Expr::tuple([Expr::value(key.created_at), Expr::value(key.id.as_str())])
}

/// A `LIKE` pattern for texts that contain this literally.
fn containing(text: &str) -> LikeExpr {
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    LikeExpr::new(format!("%{escaped}%")).escape('\\')
}

/// One job.
pub async fn job(db: &impl ConnectionTrait, id: &str) -> Result<Option<job::Model>, DbErr> {
    job::Entity::find_by_id(id).one(db).await
}

/// All events of a job, oldest first.
pub async fn events(
    db: &impl ConnectionTrait,
    job_id: &str,
) -> Result<Vec<job_event::Model>, DbErr> {
    events_after(db, job_id, None, u64::from(u32::MAX)).await
}

/// At most `limit` events of a job after `after`, oldest first.
pub async fn events_after(
    db: &impl ConnectionTrait,
    job_id: &str,
    after: Option<Position>,
    limit: u64,
) -> Result<Vec<job_event::Model>, DbErr> {
    use job_event::Column;
    let mut query = job_event::Entity::find().filter(Column::JobId.eq(job_id));
    if let Some(Position { seq, idx }) = after {
        query = query.filter(place().gt(Expr::tuple([Expr::value(seq), Expr::value(idx)])));
    }
    query.order_by_asc(Column::Seq).order_by_asc(Column::Idx).limit(limit).all(db).await
}

/// The last events of a job before `before`, at most `limit`, oldest first.
pub async fn events_before(
    db: &impl ConnectionTrait,
    job_id: &str,
    before: Option<Position>,
    limit: u64,
) -> Result<Vec<job_event::Model>, DbErr> {
    use job_event::Column;
    let mut query = job_event::Entity::find().filter(Column::JobId.eq(job_id));
    if let Some(Position { seq, idx }) = before {
        query = query.filter(place().lt(Expr::tuple([Expr::value(seq), Expr::value(idx)])));
    }
    query = query.order_by_desc(Column::Seq).order_by_desc(Column::Idx).limit(limit);
    let mut events = query.all(db).await?;
    events.reverse();
    Ok(events)
}

/// Some events of a partition, in order.
#[derive(Debug)]
pub struct Between {
    /// The events, with all events of each message.
    pub events: Vec<job_event::Model>,
    /// They are complete up to this stream sequence, inclusive.
    pub up_to: i64,
}

/// The events of a partition above one stream sequence up to another, inclusive; if there are many,
/// the first of them.
pub async fn events_between(
    db: &impl ConnectionTrait,
    partition: i32,
    above_seq: i64,
    to_seq: i64,
) -> Result<Between, DbErr> {
    use job_event::Column;
    let mut events = job_event::Entity::find()
        .filter(Column::Partition.eq(partition))
        .filter(Column::Seq.gt(above_seq))
        .filter(Column::Seq.lte(to_seq))
        .order_by_asc(Column::Seq)
        .order_by_asc(Column::Idx)
        .limit(BETWEEN as u64)
        .all(db)
        .await?;
    let mut up_to = to_seq;
    // The rest of the last message may follow. No message has as many callbacks as are read here.
    if events.len() == BETWEEN
        && let Some(last) = events.last().map(|event| event.seq)
    {
        events.retain(|event| event.seq < last);
        up_to = last - 1;
    }
    Ok(Between { events, up_to })
}

fn place() -> Expr {
    Expr::tuple([Expr::col(job_event::Column::Seq), Expr::col(job_event::Column::Idx)])
}

/// The rows of a table about the job of the statement around it, for `EXISTS`.
pub(super) fn of_job<E: EntityTrait>(job_id: E::Column) -> Select<E> {
    let its_id = Expr::col((E::default(), job_id)).equals((job::Entity, job::Column::Id));
    E::find().select_only().expr(Expr::value(1)).filter(its_id)
}
