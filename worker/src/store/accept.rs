//! What `ackline partitions` reads, and how a stopped partition continues.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    QueryFilter, QueryOrder,
};

use super::connection::begin;
use super::{read, rows};
use crate::entity::{partition, partition_gap, worker};

/// The processes that are alive or crashed.
pub async fn workers(db: &DatabaseConnection) -> Result<Vec<worker::Model>, DbErr> {
    worker::Entity::find().all(db).await
}

/// What was skipped so far, by position.
pub async fn gaps(db: &impl ConnectionTrait) -> Result<Vec<partition_gap::Model>, DbErr> {
    partition_gap::Entity::find()
        .order_by_asc(partition_gap::Column::Partition)
        .order_by_asc(partition_gap::Column::FromSeq)
        .all(db)
        .await
}

/// Messages that a partition skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skip {
    /// The last skipped sequence; the first is the one after the checkpoint.
    pub to_seq: i64,
    /// When the stream was created.
    pub stream_created_at: DateTime<Utc>,
}

/// Lets a stopped partition continue, if its row is still the one that was shown. Takes it from its
/// owner, whose batches no longer commit, and records what is skipped. Returns false, and changes
/// nothing, if the row has changed.
pub async fn accept(
    db: &DatabaseConnection,
    shown: &partition::Model,
    skip: Option<Skip>,
) -> Result<bool, DbErr> {
    use partition::Column;
    let Some(reason) = &shown.stopped_reason else { return Ok(false) };
    let transaction = begin(db).await?;
    let mut update = partition::Entity::update_many()
        .col_expr(Column::Epoch, Expr::col(Column::Epoch).add(1))
        .col_expr(Column::Owner, Expr::value(Option::<String>::None))
        .col_expr(Column::LeaseUntil, Expr::cust("NULL"))
        .col_expr(Column::StoppedReason, Expr::value(Option::<String>::None))
        .col_expr(Column::DeadLettersInRow, Expr::value(0))
        .filter(Column::Partition.eq(shown.partition))
        .filter(Column::Epoch.eq(shown.epoch))
        .filter(Column::AppliedSeq.eq(shown.applied_seq))
        .filter(Column::StoppedReason.eq(reason.as_str()));
    if let Some(skip) = skip {
        update = update
            .col_expr(Column::AppliedSeq, Expr::value(skip.to_seq))
            .col_expr(Column::AcceptedSeq, Expr::value(skip.to_seq))
            .col_expr(Column::AppliedMsgId, Expr::value(Option::<String>::None))
            .col_expr(Column::StreamCreatedAt, Expr::value(skip.stream_created_at));
    }
    if update.exec(&transaction).await?.rows_affected != 1 {
        return Ok(false);
    }
    if let Some(skip) = skip.filter(|skip| skip.to_seq > shown.applied_seq) {
        record(&transaction, shown.partition, shown.applied_seq + 1, skip, reason).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Lets a partition of which nothing was applied begin after messages that are gone, of which
/// `from_seq` is the first, and records the gap.
pub async fn begin_after(
    db: &DatabaseConnection,
    number: i32,
    from_seq: i64,
    skip: Skip,
) -> Result<(), DbErr> {
    use partition::Column;
    let transaction = begin(db).await?;
    partition::Entity::update_many()
        .col_expr(Column::AppliedSeq, Expr::value(skip.to_seq))
        .col_expr(Column::AcceptedSeq, Expr::value(skip.to_seq))
        .col_expr(Column::StreamCreatedAt, Expr::value(skip.stream_created_at))
        .filter(Column::Partition.eq(number))
        .filter(Column::AppliedSeq.eq(from_seq - 1))
        .exec(&transaction)
        .await?;
    record(&transaction, number, from_seq, skip, "rebuilt from a stream without its beginning")
        .await?;
    transaction.commit().await
}

async fn record(
    transaction: &DatabaseTransaction,
    number: i32,
    from_seq: i64,
    skip: Skip,
    reason: &str,
) -> Result<(), DbErr> {
    let gap = partition_gap::Model {
        partition: number,
        from_seq,
        to_seq: skip.to_seq,
        reason: reason.to_owned(),
        stream_created_at: skip.stream_created_at,
        accepted_at: read::now(transaction).await?,
    };
    rows::insert(transaction, &[gap], None).await
}
