//! Counts for metrics, console and API: jobs and dead letters, by partition. However many there are,
//! a count reads a bounded number of index entries.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Asterisk, Expr, ExprTrait, Func, Query, SelectStatement, UnionType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, FromQueryResult, Order,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::liveness::first_heard;
use super::partitions::clock;
use crate::entity::dead_letter::State;
use crate::entity::job::{self, Status};
use crate::entity::{dead_letter, partition, partition_gap};

/// How far counts go, over all partitions together.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Jobs in each status that is not finished. Only these are expected to be counted whole.
    pub unfinished: u64,
    /// Jobs in each finished status.
    pub finished: u64,
    /// Dead letters in each state.
    pub letters: u64,
    /// Of the jobs with a timeout of their own, how many are looked at for the longest silence:
    /// those whose timeouts expire first.
    pub patient: u64,
}

impl Reach {
    /// How far the worker, the console and the commands count.
    pub const USUAL: Self =
        Self { unfinished: 1_000_000, finished: 100_000, letters: 10_000, patient: 20_000 };

    fn of(self, status: Status) -> u64 {
        if status.is_finished() { self.finished } else { self.unfinished }
    }
}

/// A number, or the fact that there are more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many were counted.
    pub number: u64,
    /// Whether there are more.
    pub more: bool,
}

impl Count {
    /// What was found by a query for one more than `limit`.
    fn up_to(limit: u64, found: i64) -> Self {
        let found = u64::try_from(found).unwrap_or_default();
        Self { number: Ord::min(found, limit), more: found > limit }
    }
}

/// The jobs of one partition.
#[derive(Debug, Clone)]
pub struct Counted {
    /// The partition.
    pub partition: i32,
    /// How many jobs there are in each status.
    pub jobs: Vec<(Status, Count)>,
    /// The oldest `updated_at` of a job in `provisioning`.
    pub oldest: Option<DateTime<Utc>>,
    /// Now, by the database's clock.
    pub now: DateTime<Utc>,
}

/// Counts the jobs of each of this many partitions by status.
pub async fn jobs(
    db: &DatabaseConnection,
    partitions: usize,
    reach: Reach,
) -> Result<Vec<Counted>, DbErr> {
    let statement = jobs_statement(db, partitions, reach);
    let rows = db.query_all(&statement).await?;
    let counted = rows.iter().map(|row| {
        let jobs = Status::all().map(|status| {
            let found = row.try_get("", status.as_str())?;
            Ok((status, Count::up_to(share(reach.of(status), partitions), found)))
        });
        let heard: Option<DateTime<Utc>> = row.try_get("", "heard")?;
        let own: Option<DateTime<Utc>> = row.try_get("", "own")?;
        Ok(Counted {
            partition: row.try_get("", "partition")?,
            jobs: jobs.collect::<Result<_, DbErr>>()?,
            oldest: [heard, own].into_iter().flatten().min(),
            now: row.try_get("", "now")?,
        })
    });
    counted.collect()
}

/// The statement of [`jobs`], so that its plan can be explained.
#[must_use]
pub fn jobs_statement(db: &DatabaseConnection, partitions: usize, reach: Reach) -> SelectStatement {
    use job::Column;
    let mut select = Query::select();
    select
        .column(partition::Column::Partition)
        .from_subquery(numbers(), partition::Entity)
        .expr_as(clock(db.get_database_backend(), std::time::Duration::ZERO), "now");
    for status in Status::all() {
        let some = of_partition(status, same_partition(job::Entity, Column::Partition));
        let limit = share(reach.of(status), partitions);
        select.expr_as(count(some.select_only().expr(Expr::val(1)), limit), status.as_str());
    }
    let same = || same_partition(job::Entity, Column::Partition);
    let heard = first_heard(Status::Provisioning, same(), 1);
    let own = patient(same(), share(reach.patient, partitions));
    let own = Query::select()
        .expr(Func::min(Expr::col(Column::UpdatedAt)))
        .from_subquery(own.select_only().column(Column::UpdatedAt).into_query(), "own")
        .take();
    select
        .expr_as(heard.select_only().column(Column::UpdatedAt).into_query(), "heard")
        .expr_as(own, "own")
        .take()
}

/// An equal part of a limit for each partition.
fn share(limit: u64, partitions: usize) -> u64 {
    let partitions = Ord::max(partitions as u64, 1);
    Ord::max(limit / partitions, 1)
}

/// How many rows there are, but at most one more than `limit`.
fn count<E: EntityTrait>(rows: Select<E>, limit: u64) -> SelectStatement {
    Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from_subquery(rows.limit(limit + 1).into_query(), "some")
        .take()
}

/// The numbers of all partitions that there are or were: what is finished may be of an earlier
/// generation, which had more of them.
fn numbers() -> SelectStatement {
    let number = partition::Column::Partition;
    let were = Query::select().column(number).from(partition_gap::Entity).take();
    Query::select().column(number).from(partition::Entity).union(UnionType::Distinct, were).take()
}

fn same_partition<E: EntityTrait>(table: E, column: E::Column) -> Expr {
    Expr::col((table, column)).equals((partition::Entity, partition::Column::Partition))
}

/// Jobs of a status: a range of `jobs_silence` or of `jobs_finished`. The databases use these
/// indexes only for a query that says which jobs are in them.
fn of_partition(status: Status, partition: Expr) -> Select<job::Entity> {
    use job::Column;
    let is_indexed = match status.is_finished() {
        true => Column::FinishedAt.is_not_null(),
        false => Column::FinishedAt.is_null(),
    };
    job::Entity::find().filter(partition).filter(Column::Status.eq(status)).filter(is_indexed)
}

/// The jobs in `provisioning` whose own timeouts expire first.
fn patient(partition: Expr, limit: u64) -> Select<job::Entity> {
    use job::Column;
    of_partition(Status::Provisioning, partition)
        .filter(Column::PresumeAt.is_not_null())
        .order_by_asc(Column::PresumeAt)
        .limit(limit)
}

/// A job in `provisioning`, and when it was last heard.
#[derive(Debug, Clone, FromQueryResult, Serialize, ToSchema)]
pub struct Quiet {
    /// The job.
    pub id: String,
    /// When it was last heard.
    pub updated_at: DateTime<Utc>,
}

/// The jobs in `provisioning` that have been silent for longest, in any of this many partitions.
pub async fn quietest(
    db: &DatabaseConnection,
    partitions: usize,
    reach: Reach,
    limit: u64,
) -> Result<Vec<Quiet>, DbErr> {
    let Some(statement) = quietest_statement(partitions, reach, limit) else {
        return Ok(Vec::new());
    };
    Quiet::find_by_statement(db.get_database_backend().build(&statement)).all(db).await
}

/// The statement of [`quietest`], so that its plan can be explained; none without partitions.
#[must_use]
pub fn quietest_statement(partitions: usize, reach: Reach, limit: u64) -> Option<SelectStatement> {
    use job::Column;
    let numbers = 0..i32::try_from(partitions).unwrap_or_default();
    let ranges = numbers.flat_map(|number| {
        let own = || Column::Partition.eq(number);
        [
            first_heard(Status::Provisioning, own(), limit),
            patient(own(), share(reach.patient, partitions)),
        ]
    });
    let ranges = ranges.map(|range| {
        let range = range.select_only().columns([Column::Id, Column::UpdatedAt]).into_query();
        Query::select().column(Asterisk).from_subquery(range, "range").take()
    });
    let mut select = ranges.reduce(|mut all, range| all.union(UnionType::All, range).take())?;
    select.order_by(Column::UpdatedAt, Order::Asc).order_by(Column::Id, Order::Asc).limit(limit);
    Some(select)
}

/// The dead letters of one partition, except discarded ones.
#[derive(Debug, Clone, Copy)]
pub struct Letters {
    /// The partition.
    pub partition: i32,
    /// Those that could not be applied.
    pub dead: Count,
    /// What is held behind them.
    pub held: Count,
}

/// Counts the dead letters of each of this many partitions.
pub async fn dead_letters(
    db: &DatabaseConnection,
    partitions: usize,
    reach: Reach,
) -> Result<Vec<Letters>, DbErr> {
    let limit = share(reach.letters, partitions);
    let rows = db.query_all(&dead_letters_statement(partitions, reach)).await?;
    let counted = rows.iter().map(|row| {
        let count = |state: State| -> Result<Count, DbErr> {
            Ok(Count::up_to(limit, row.try_get("", state.as_str())?))
        };
        Ok(Letters {
            partition: row.try_get("", "partition")?,
            dead: count(State::Dead)?,
            held: count(State::Held)?,
        })
    });
    counted.collect()
}

/// The statement of [`dead_letters`], so that its plan can be explained.
#[must_use]
pub fn dead_letters_statement(partitions: usize, reach: Reach) -> SelectStatement {
    use dead_letter::Column;
    let mut select = Query::select();
    select.column(partition::Column::Partition).from_subquery(numbers(), partition::Entity);
    for state in State::WAITING {
        let some = dead_letter::Entity::find()
            .select_only()
            .expr(Expr::val(1))
            .filter(same_partition(dead_letter::Entity, Column::Partition))
            .filter(Column::State.eq(state));
        select.expr_as(count(some, share(reach.letters, partitions)), state.as_str());
    }
    select.take()
}
