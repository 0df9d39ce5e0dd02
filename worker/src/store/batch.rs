//! One batch, one transaction: the fence, what the batch needs to know, what it decided.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, IntoActiveModel, Iterable, QueryFilter, QuerySelect,
};

use super::partitions::clock;
use crate::batch::{Known, Plan};
use crate::entity::{dead_letter, job, job_event, partition};
use crate::event::{Body, Incoming};
use crate::transition::{self, RULES_VERSION};

/// What an owner knows of its partition's row. A batch commits only if the row still says this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// The partition.
    pub partition: i32,
    /// The epoch of the acquisition.
    pub epoch: i64,
    /// The process.
    pub owner: String,
    /// The checkpoint.
    pub applied_seq: i64,
    /// Dead letters in a row up to the checkpoint.
    pub dead_letters_in_row: i32,
}

/// What a batch leaves in the checkpoint row.
#[derive(Debug, Clone)]
pub struct Checkpoint<'a> {
    /// The last message of the batch.
    pub seq: i64,
    /// Its `Nats-Msg-Id`.
    pub msg_id: Option<&'a str>,
    /// When its stream was created.
    pub stream_created_at: DateTime<Utc>,
}

/// The fence: moves the checkpoint and renews the lease, if the row still is as its owner left it.
/// The first statement of every batch; `false` means that ownership is lost.
///
/// # Errors
/// When the database fails.
pub async fn fence(
    transaction: &DatabaseTransaction,
    mine: &Ownership,
    checkpoint: &Checkpoint<'_>,
    lease: Duration,
) -> Result<bool, DbErr> {
    use partition::Column;
    let result = partition::Entity::update_many()
        .col_expr(Column::AppliedSeq, Expr::value(checkpoint.seq))
        .col_expr(Column::AppliedMsgId, Expr::value(checkpoint.msg_id))
        .col_expr(Column::StreamCreatedAt, Expr::value(checkpoint.stream_created_at))
        .col_expr(Column::RulesFromSeq, rules_from_seq(mine.applied_seq))
        .col_expr(Column::RulesVersion, Expr::value(RULES_VERSION))
        // A batch that commits is the proof that nothing stops the partition any more.
        .col_expr(Column::StoppedReason, Expr::value(Option::<String>::None))
        .col_expr(Column::LeaseUntil, clock(transaction.get_database_backend(), lease))
        .filter(Column::Partition.eq(mine.partition))
        .filter(Column::Epoch.eq(mine.epoch))
        .filter(Column::Owner.eq(mine.owner.as_str()))
        .filter(Column::AppliedSeq.eq(mine.applied_seq))
        .exec(transaction)
        .await?;
    Ok(result.rows_affected == 1)
}

/// From where on the rules are of this version: from this batch on, if they were not before.
fn rules_from_seq(applied_seq: i64) -> Expr {
    use partition::Column;
    Expr::case(Expr::col(Column::RulesVersion).eq(RULES_VERSION), Expr::col(Column::RulesFromSeq))
        .finally(applied_seq + 1)
        .into()
}

/// Keeps the count of dead letters in a row with the checkpoint.
///
/// # Errors
/// When the database fails.
pub async fn set_in_row(
    transaction: &DatabaseTransaction,
    partition: i32,
    in_row: i32,
) -> Result<(), DbErr> {
    partition::Entity::update_many()
        .col_expr(partition::Column::DeadLettersInRow, Expr::value(in_row))
        .filter(partition::Column::Partition.eq(partition))
        .exec(transaction)
        .await?;
    Ok(())
}

/// Loads what folding these events needs to know.
///
/// # Errors
/// When the database fails.
pub async fn load(
    transaction: &DatabaseTransaction,
    incoming: &[Incoming],
) -> Result<Known, DbErr> {
    let events = incoming.iter().filter_map(Incoming::event);
    let mut job_ids = HashSet::new();
    let mut event_ids = HashSet::new();
    for event in events {
        job_ids.insert(event.job_id());
        if let Body::Callback(callback) = &event.body
            && transition::kind(event) != job_event::Kind::Heartbeat
            && let Some(event_id) = &callback.event_id
        {
            event_ids.insert(event_id.as_str());
        }
    }
    let mut known = Known::default();
    if job_ids.is_empty() {
        return Ok(known);
    }

    let jobs = job::Entity::find()
        .filter(job::Column::Id.is_in(job_ids.iter().copied()))
        .all(transaction)
        .await?;
    known.jobs = jobs.into_iter().map(|job| (job.id.clone(), job)).collect();

    let held: Vec<Option<String>> = dead_letter::Entity::find()
        .select_only()
        .column(dead_letter::Column::JobId)
        .distinct()
        .filter(dead_letter::Column::JobId.is_in(job_ids.iter().copied()))
        .filter(dead_letter::Column::State.ne(dead_letter::State::Discarded))
        .into_tuple()
        .all(transaction)
        .await?;
    known.held = held.into_iter().flatten().collect();

    if !event_ids.is_empty() && !known.jobs.is_empty() {
        let seen: Vec<(String, String, job_event::Kind)> = job_event::Entity::find()
            .select_only()
            .columns([
                job_event::Column::JobId,
                job_event::Column::EventId,
                job_event::Column::Kind,
            ])
            .filter(job_event::Column::JobId.is_in(known.jobs.keys().map(String::as_str)))
            // An expression keeps event_id out of the index search, which would otherwise try
            // each job with each event id.
            .filter(Expr::cust("event_id || ''").is_in(event_ids))
            .filter(job_event::Column::Kind.ne(job_event::Kind::Heartbeat))
            .into_tuple()
            .all(transaction)
            .await?;
        let mut by_id: HashMap<(String, String), HashSet<job_event::Kind>> = HashMap::new();
        for (job_id, event_id, kind) in seen {
            by_id.entry((job_id, event_id)).or_default().insert(kind);
        }
        known.seen = by_id;
    }
    Ok(known)
}

/// Writes what a batch decided, in multi-row statements.
///
/// # Errors
/// When the database fails or refuses a row; the caller sorts which.
pub async fn write(transaction: &DatabaseTransaction, plan: &Plan) -> Result<(), DbErr> {
    let on_conflict = || {
        let changing = job::Column::iter().filter(|column| !matches!(column, job::Column::Id));
        OnConflict::column(job::Column::Id).update_columns(changing).to_owned()
    };
    for rows in plan.jobs.chunks(rows_per_statement::<job::Entity>(transaction)) {
        job::Entity::insert_many(rows.iter().cloned().map(set_all))
            .on_conflict(on_conflict())
            .exec_without_returning(transaction)
            .await?;
    }
    for rows in plan.events.chunks(rows_per_statement::<job_event::Entity>(transaction)) {
        job_event::Entity::insert_many(rows.iter().cloned().map(set_all))
            .exec_without_returning(transaction)
            .await?;
    }
    for rows in plan.dead_letters.chunks(rows_per_statement::<dead_letter::Entity>(transaction)) {
        dead_letter::Entity::insert_many(rows.iter().cloned().map(set_all))
            .exec_without_returning(transaction)
            .await?;
    }
    Ok(())
}

/// Every column is set: in a statement of many rows one that is not becomes NULL.
fn set_all<M, A>(model: M) -> A
where
    M: IntoActiveModel<A>,
    A: ActiveModelTrait,
{
    model.into_active_model().reset_all()
}

fn rows_per_statement<E: EntityTrait>(db: &impl ConnectionTrait) -> usize {
    let binds = match db.get_database_backend() {
        DbBackend::Sqlite => 32_766,
        _ => 65_535,
    };
    binds / E::Column::iter().count()
}
