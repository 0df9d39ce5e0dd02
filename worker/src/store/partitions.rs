//! Ownership in the checkpoint rows. Leases run by the database's clock and are for liveness only.
//! The fence, [`super::batch::fence`], makes a late owner harmless.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Func, LockBehavior, LockType, OnConflict, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait,
    FromQueryResult, QueryFilter, QuerySelect,
};

use crate::entity::{partition, worker};

/// The row of a process is removed after this many leases without a renewal.
const DEAD_LEASES: u32 = 10;

/// The database's time plus a duration, in the format of the columns.
pub(super) fn clock(backend: DbBackend, ahead: Duration) -> Expr {
    shifted_clock(backend, '+', ahead)
}

fn shifted_clock(backend: DbBackend, sign: char, by: Duration) -> Expr {
    // A duration in whole milliseconds needs no escaping.
    let ms = by.as_millis();
    Expr::cust(match backend {
        DbBackend::Sqlite => {
            let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
            format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '{sign}{seconds} seconds')")
        }
        // Not now(): that is when the transaction began, before it waited for a lock.
        _ => format!("clock_timestamp() {sign} interval '{ms} milliseconds'"),
    })
}

/// Who acquires partitions, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The generation of the streams that it reads.
    pub generation: u32,
    /// The random id of the process.
    pub me: &'a str,
    /// The lease.
    pub lease: Duration,
    /// Whether no other process can be alive.
    pub alone: bool,
    /// The longest time after `watched_until` after which the partition still counts as watched
    /// throughout; none if it does not count in any case.
    pub watch_gap: Option<Duration>,
}

/// Acquires a partition that is free, expired or already ours, in its generation. One statement: it waits for a commit
/// in flight, and reads the checkpoint that this commit left. Returns the new row, or none while
/// another lease runs.
pub async fn acquire(
    db: &DatabaseConnection,
    number: i32,
    claim: Claim<'_>,
) -> Result<Option<partition::Model>, DbErr> {
    use partition::Column;
    let Claim { generation, me, lease, alone, watch_gap } = claim;
    let backend = db.get_database_backend();
    let mut free = is_free(backend).add(Column::Owner.eq(me));
    if alone {
        free = free.add(Expr::value(true));
    }
    let watched_since = match watch_gap {
        Some(gap) => {
            let is_recent = Expr::col(Column::WatchedUntil).gte(shifted_clock(backend, '-', gap));
            Expr::case(is_recent, Expr::col(Column::WatchedSince)).into()
        }
        None => Expr::cust("NULL"),
    };
    let rows = partition::Entity::update_many()
        .col_expr(Column::Epoch, Expr::col(Column::Epoch).add(1))
        .col_expr(Column::PreviousOwner, Expr::col(Column::Owner))
        .col_expr(Column::Owner, Expr::value(me))
        .col_expr(Column::LeaseUntil, clock(backend, lease))
        .col_expr(Column::WatchedSince, watched_since)
        .filter(Column::Partition.eq(number))
        .filter(Column::Generation.eq(generation))
        .filter(free)
        .exec_with_returning(db)
        .await?;
    Ok(rows.into_iter().next())
}

fn is_free(backend: DbBackend) -> Condition {
    use partition::Column;
    Condition::any()
        .add(Column::Owner.is_null())
        .add(Column::LeaseUntil.is_null())
        .add(Expr::col(Column::LeaseUntil).lt(clock(backend, Duration::ZERO)))
}

/// The partitions that nobody owns, or whose owner's lease has run out.
pub async fn free(db: &DatabaseConnection) -> Result<HashSet<i32>, DbErr> {
    let numbers: Vec<i32> = partition::Entity::find()
        .select_only()
        .column(partition::Column::Partition)
        .filter(is_free(db.get_database_backend()))
        .into_tuple()
        .all(db)
        .await?;
    Ok(numbers.into_iter().collect())
}

/// Where PostgreSQL keeps the current version of a partition's row: its `ctid`. While a snapshot is
/// open, the older versions stay, thousands in a minute, and a search by key walks them all. A place
/// that is out of date costs one such search, and decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(pub(super) Option<String>);

impl Place {
    /// The expression that returns it.
    pub(super) fn returned(backend: DbBackend) -> Expr {
        Expr::cust(if backend == DbBackend::Postgres { "ctid::text" } else { "NULL" })
    }
}

/// The generation of the streams that the checkpoints are of; none if there are no checkpoints.
pub async fn generation(db: &DatabaseConnection) -> Result<Option<u32>, DbErr> {
    let generation: Option<i32> = partition::Entity::find()
        .select_only()
        .column(partition::Column::Generation)
        .into_tuple()
        .one(db)
        .await?;
    Ok(generation.and_then(|generation| u32::try_from(generation).ok()))
}

/// The row of a partition that this process owns.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Held {
    partition: i32,
    /// The epoch.
    pub epoch: i64,
    /// The checkpoint.
    pub applied_seq: i64,
    place: Option<String>,
}

impl Held {
    /// Where the row is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place(self.place.clone())
    }
}

/// Renews the leases of all partitions of this process and returns what it still owns. They count as
/// watched until `unheard` ago.
///
/// A row that is locked is passed over: its batch, which holds it, has renewed its lease. Otherwise
/// a batch that waits would hold up all partitions of the process.
pub async fn renew(
    db: &DatabaseConnection,
    me: &str,
    lease: Duration,
    unheard: Duration,
) -> Result<HashMap<i32, Held>, DbErr> {
    use partition::Column;
    let backend = db.get_database_backend();
    let free = Query::select()
        .column(Column::Partition)
        .from(partition::Entity)
        .and_where(Column::Owner.eq(me))
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .to_owned();
    partition::Entity::update_many()
        .col_expr(Column::LeaseUntil, clock(backend, lease))
        .col_expr(Column::WatchedUntil, shifted_clock(backend, '-', unheard))
        .filter(Column::Partition.in_subquery(free))
        .exec(db)
        .await?;
    let held: Vec<Held> = partition::Entity::find()
        .select_only()
        .columns([Column::Partition, Column::Epoch, Column::AppliedSeq])
        .expr_as(Place::returned(backend), "place")
        .filter(Column::Owner.eq(me))
        .into_model()
        .all(db)
        .await?;
    Ok(held.into_iter().map(|held| (held.partition, held)).collect())
}

/// Releases a partition, if it is still ours. It counts as watched until `unheard` ago.
pub async fn release(
    db: &DatabaseConnection,
    number: i32,
    me: &str,
    epoch: i64,
    unheard: Duration,
) -> Result<(), DbErr> {
    let watched_until = shifted_clock(db.get_database_backend(), '-', unheard);
    owned(number, me, epoch)
        .col_expr(partition::Column::Owner, Expr::value(Option::<String>::None))
        .col_expr(partition::Column::LeaseUntil, Expr::cust("NULL"))
        .col_expr(partition::Column::WatchedUntil, watched_until)
        .exec(db)
        .await?;
    Ok(())
}

/// Records why a partition is stopped, or that it no longer is, if it is still ours.
pub async fn set_stopped(
    db: &DatabaseConnection,
    number: i32,
    me: &str,
    epoch: i64,
    reason: Option<&str>,
) -> Result<(), DbErr> {
    owned(number, me, epoch)
        .col_expr(partition::Column::StoppedReason, Expr::value(reason))
        .exec(db)
        .await?;
    Ok(())
}

/// Records that the partition is watched from now on, or that it is not, if it is still ours.
pub async fn set_watched(
    db: &DatabaseConnection,
    number: i32,
    me: &str,
    epoch: i64,
    is_watched: bool,
) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    let since = if is_watched { clock(backend, Duration::ZERO) } else { Expr::cust("NULL") };
    owned(number, me, epoch).col_expr(partition::Column::WatchedSince, since).exec(db).await?;
    Ok(())
}

fn owned(number: i32, me: &str, epoch: i64) -> sea_orm::UpdateMany<partition::Entity> {
    partition::Entity::update_many()
        .filter(partition::Column::Partition.eq(number))
        .filter(partition::Column::Epoch.eq(epoch))
        .filter(partition::Column::Owner.eq(me))
}

/// What the owner of a partition has committed, and the time by the database's clock.
#[derive(Debug, FromQueryResult)]
pub struct Committed {
    /// The partition's row.
    #[sea_orm(nested)]
    pub row: partition::Model,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Reads the checkpoint of a partition, if it is still ours.
pub async fn committed(
    db: &DatabaseConnection,
    number: i32,
    me: &str,
    epoch: i64,
) -> Result<Option<Committed>, DbErr> {
    use partition::Column;
    partition::Entity::find()
        .expr_as(clock(db.get_database_backend(), Duration::ZERO), "now")
        .filter(Column::Partition.eq(number))
        .filter(Column::Epoch.eq(epoch))
        .filter(Column::Owner.eq(me))
        .into_model()
        .one(db)
        .await
}

/// Records that this process is alive for one lease. A process that was thought dead begins a new
/// life.
pub async fn keep_alive(
    db: &DatabaseConnection,
    me: &str,
    name: &str,
    lease: Duration,
) -> Result<(), DbErr> {
    use worker::Column;
    let now = || clock(db.get_database_backend(), Duration::ZERO);
    let column = |column: Column| Expr::col((worker::Entity, column));
    let since = Expr::case(column(Column::AliveUntil).lt(now()), now());
    // The times are database expressions, which the entity's insert cannot carry.
    let statement = Query::insert()
        .into_table(worker::Entity)
        .columns([Column::Id, Column::Name, Column::AliveSince, Column::AliveUntil])
        .values_panic([
            Expr::value(me),
            Expr::value(name),
            now(),
            clock(db.get_database_backend(), lease),
        ])
        .on_conflict(
            OnConflict::column(Column::Id)
                .update_column(Column::AliveUntil)
                .value(Column::AliveSince, since.finally(column(Column::AliveSince)))
                .to_owned(),
        )
        .to_owned();
    db.execute(&statement).await?;
    Ok(())
}

/// The processes that have a row.
#[derive(Debug, Default, Clone, Copy, FromQueryResult)]
pub struct Workers {
    /// How many are alive.
    pub alive: i64,
    /// How many of those have been so for a lease.
    pub settled: i64,
    /// Whether this process is one of them: 1, or 0.
    pub is_settled: i64,
    /// How many have been dead for long.
    pub long_dead: i64,
}

impl Workers {
    /// Among how many processes the partitions are divided; 0 if this one gets none of them.
    ///
    /// Whoever has not lived for a lease counts only among its like: a process that crashes after
    /// each start would otherwise keep the others from what it never applies.
    #[must_use]
    pub fn sharing(&self) -> u64 {
        match (self.settled, self.is_settled) {
            (0, _) => self.alive.unsigned_abs(),
            (settled, 1..) => settled.unsigned_abs(),
            _ => 0,
        }
    }
}

/// Counts the processes, as this one sees them.
pub async fn count_workers(
    db: &DatabaseConnection,
    me: &str,
    lease: Duration,
) -> Result<Workers, DbErr> {
    use worker::Column;
    let backend = db.get_database_backend();
    let is_alive = || Expr::col(Column::AliveUntil).gte(clock(backend, Duration::ZERO));
    let is_settled =
        || is_alive().and(Expr::col(Column::AliveSince).lte(shifted_clock(backend, '-', lease)));
    let count_if = |condition: Expr| {
        Func::coalesce([Func::sum(Expr::case(condition, 1).finally(0)).into(), Expr::value(0)])
    };
    let counted = worker::Entity::find()
        .select_only()
        .expr_as(count_if(is_alive()), "alive")
        .expr_as(count_if(is_settled()), "settled")
        .expr_as(count_if(is_settled().and(Column::Id.eq(me))), "is_settled")
        .expr_as(count_if(Expr::col(Column::AliveUntil).lt(long_ago(db, lease))), "long_dead")
        .into_model()
        .one(db)
        .await?;
    Ok(counted.unwrap_or_default())
}

/// Deletes the rows of processes that crashed long ago. A process that was only paused creates its
/// row again.
pub async fn bury(db: &DatabaseConnection, lease: Duration) -> Result<(), DbErr> {
    worker::Entity::delete_many()
        .filter(Expr::col(worker::Column::AliveUntil).lt(long_ago(db, lease)))
        .exec(db)
        .await?;
    Ok(())
}

fn long_ago(db: &DatabaseConnection, lease: Duration) -> Expr {
    shifted_clock(db.get_database_backend(), '-', lease.saturating_mul(DEAD_LEASES))
}

/// Deletes this process's row.
pub async fn leave(db: &DatabaseConnection, me: &str) -> Result<(), DbErr> {
    worker::Entity::delete_by_id(me).exec(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_lived_for_a_lease_counts_only_among_its_like() {
        for (alive, settled, is_settled, sharing) in
            [(1, 0, 0, 1), (3, 0, 0, 3), (2, 1, 1, 1), (2, 1, 0, 0), (5, 3, 1, 3), (0, 0, 0, 0)]
        {
            let workers = Workers { alive, settled, is_settled, long_dead: 0 };
            assert_eq!(workers.sharing(), sharing, "{workers:?}");
        }
    }
}
