//! From one generation of streams to the next, in one transaction.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr,
    EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use shared::partition::{Layout, Partition};

use super::connection::begin;
use super::{read, rows, schema};
use crate::entity::{job, partition, partition_gap};
use crate::rules::transition::RULES_VERSION;

/// How many jobs are moved with one statement.
const JOBS: usize = 1000;

/// Where a partition's stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The partition.
    pub partition: Partition,
    /// The first sequence that its stream ever gives.
    pub first_seq: i64,
    /// When the stream was created.
    pub created_at: DateTime<Utc>,
}

/// Why the database does not go over to the next generation yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The checkpoints are of neither generation.
    #[error("the database is of generation {0}")]
    Other(u32),
    /// A partition is not applied up to its end.
    #[error("partition {partition:02} is applied up to {applied_seq}, of {end}")]
    Behind {
        /// Its number.
        partition: i32,
        /// Its checkpoint.
        applied_seq: i64,
        /// The last sequence of its stream.
        end: i64,
    },
    /// A partition is stopped.
    #[error("partition {partition:02} is stopped: {reason}")]
    Stopped {
        /// Its number.
        partition: i32,
        /// Why.
        reason: String,
    },
}

/// The end of a generation.
#[derive(Debug, Clone, Copy)]
pub enum Ends<'a> {
    /// The last sequence of each stream, which is applied.
    Applied(&'a [i64]),
    /// The streams are lost for good, with whatever they held beyond the checkpoints.
    Lost,
}

/// Goes over from the streams of `from` to those that begin like this, unless it was done before:
/// each partition gets a checkpoint just before its stream's first message, unfinished jobs get
/// their new partitions, and what the old streams were is on record in `partition_gaps`. No batch of
/// an earlier owner commits after that.
///
/// # Errors
/// The database failed; nothing has changed.
pub async fn go_over(
    db: &DatabaseConnection,
    from: Layout,
    ends: Ends<'_>,
    to: &[Begin],
) -> Result<Result<(), NotYet>, DbErr> {
    let Some(layout) = to.first().map(|begin| begin.partition.layout()) else { return Ok(Ok(())) };
    let transaction = begin(db).await?;
    let old = partition::Entity::find()
        .order_by_asc(partition::Column::Partition)
        .lock_exclusive()
        .all(&transaction)
        .await?;
    let found = schema::layout_of(&old);
    if found == Some(layout) {
        return Ok(Ok(()));
    }
    if found != Some(from) {
        return Ok(Err(NotYet::Other(found.map_or(0, Layout::generation))));
    }
    if let Ends::Applied(ends) = ends
        && let Some(not_yet) = old.iter().zip(ends).find_map(|(row, end)| not_yet(row, *end))
    {
        return Ok(Err(not_yet));
    }
    let first_seq = to.iter().map(|begin| begin.first_seq).min().unwrap_or(1);
    let why = match ends {
        Ends::Applied(_) => format!("moved to generation {}", layout.generation()),
        Ends::Lost => format!("the streams of generation {} were lost", from.generation()),
    };
    record(&transaction, &old, first_seq, &why).await?;
    if layout.partitions() != from.partitions() {
        reassign(&transaction, from, layout).await?;
    }
    replace(&transaction, &old, to).await?;
    transaction.commit().await?;
    Ok(Ok(()))
}

fn not_yet(row: &partition::Model, end: i64) -> Option<NotYet> {
    let partition = row.partition;
    if let Some(reason) = &row.stopped_reason {
        return Some(NotYet::Stopped { partition, reason: reason.clone() });
    }
    let applied_seq = row.applied_seq;
    (applied_seq != end).then_some(NotYet::Behind { partition, applied_seq, end })
}

/// Keeps on record, for each old partition, which sequences were given up.
async fn record(
    transaction: &DatabaseTransaction,
    old: &[partition::Model],
    first_seq: i64,
    reason: &str,
) -> Result<(), DbErr> {
    let now = read::now(transaction).await?;
    let gap = |row: &partition::Model| partition_gap::Model {
        partition: row.partition,
        from_seq: row.applied_seq + 1,
        to_seq: first_seq - 1,
        reason: reason.to_owned(),
        stream_created_at: row.stream_created_at.unwrap_or(now),
        accepted_at: now,
    };
    let gaps: Vec<_> = old.iter().map(gap).collect();
    rows::insert(transaction, &gaps, None).await
}

/// Gives unfinished jobs their new partitions, which the search for silent ones goes by. A finished
/// job gets its own with its next event.
async fn reassign(
    transaction: &DatabaseTransaction,
    from: Layout,
    to: Layout,
) -> Result<(), DbErr> {
    use job::Column;
    let backend = transaction.get_database_backend();
    let mut moved: Vec<Vec<String>> = vec![Vec::new(); usize::from(to.partitions())];
    for partition in from.all() {
        let ids: Vec<String> = job::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Partition.eq(i32::from(partition.number())))
            .filter(Column::FinishedAt.is_null())
            .into_tuple()
            .all(transaction)
            .await?;
        for id in ids {
            let home = to.of_job(&id);
            if home.number() != partition.number() {
                moved[usize::from(home.number())].push(id);
            }
        }
    }
    for (home, ids) in to.all().zip(moved) {
        for ids in ids.chunks(JOBS) {
            let is_moved = rows::is_any(backend, "id", ids.iter().map(String::as_str));
            job::Entity::update_many()
                .col_expr(Column::Partition, Expr::value(i32::from(home.number())))
                .filter(is_moved)
                .exec(transaction)
                .await?;
        }
    }
    Ok(())
}

/// Replaces the checkpoints. Epochs go on from the highest one.
async fn replace(
    transaction: &DatabaseTransaction,
    old: &[partition::Model],
    to: &[Begin],
) -> Result<(), DbErr> {
    let epoch = old.iter().map(|row| row.epoch).max().unwrap_or(0) + 1;
    // Rates are computed from the sum over all partitions.
    let mut applied_callbacks = old.iter().map(|row| row.applied_callbacks).sum();
    let new = to.iter().map(|begin| {
        let row = partition::Model {
            partition: i32::from(begin.partition.number()),
            generation: i32::try_from(begin.partition.layout().generation()).unwrap_or(i32::MAX),
            epoch,
            applied_seq: begin.first_seq - 1,
            accepted_seq: Some(begin.first_seq - 1),
            stream_created_at: Some(begin.created_at),
            rules_version: RULES_VERSION,
            applied_callbacks: std::mem::take(&mut applied_callbacks),
            ..Default::default()
        };
        row.into_active_model().reset_all()
    });
    partition::Entity::delete_many().exec(transaction).await?;
    partition::Entity::insert_many(new).exec_without_returning(transaction).await?;
    Ok(())
}
