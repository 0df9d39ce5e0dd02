//! One batch, one transaction: the fence, what the batch needs to know, what it decided.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Returning, UpdateStatement};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    FromQueryResult, QueryFilter, QueryTrait, Statement,
};

use super::partitions::{Place, clock};
use super::rows;
use crate::entity::{job, job_event, partition};
use crate::rules::batch::{Known, Plan};
use crate::rules::event::{Body, Incoming};
use crate::rules::transition::{self, RULES_VERSION};

/// What an owner knows of its partition's row. A batch commits only if the row still says this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// The partition.
    pub partition: i32,
    /// The generation of its stream.
    pub generation: i32,
    /// The epoch of the acquisition.
    pub epoch: i64,
    /// The process.
    pub owner: String,
    /// The checkpoint.
    pub applied_seq: i64,
    /// Dead letters in a row up to the checkpoint.
    pub dead_letters_in_row: i32,
    /// Where the row's current version is, if that is known.
    pub place: Place,
}

/// What a batch leaves in the checkpoint row.
#[derive(Debug, Clone)]
pub struct Checkpoint<'a> {
    /// The last message of the batch.
    pub seq: i64,
    /// Its `Nats-Msg-Id`.
    pub msg_id: Option<&'a str>,
    /// When its stream stored it.
    pub received_at: DateTime<Utc>,
    /// When its stream was created.
    pub stream_created_at: DateTime<Utc>,
    /// How many callbacks and internal events the batch holds.
    pub callbacks: usize,
}

/// The fence: the first statement of every batch. Moves the checkpoint and renews the lease, if the
/// row is still as its owner left it, and returns where the row is then. None means that ownership
/// is lost.
pub async fn fence(
    transaction: &DatabaseTransaction,
    mine: &Ownership,
    checkpoint: &Checkpoint<'_>,
    lease: Duration,
) -> Result<Option<Place>, DbErr> {
    let backend = transaction.get_database_backend();
    let moved = async |mine: &Ownership| {
        let fence = fence_statement(backend, mine, checkpoint, lease);
        let row = transaction.query_one(&fence).await?;
        row.map(|row| row.try_get_by_index(0).map(Place)).transpose()
    };
    if let Some(place) = moved(mine).await? {
        return Ok(Some(place));
    }
    // The row has moved, as with every renewal, or is lost.
    match &mine.place {
        Place(None) => Ok(None),
        Place(Some(_)) => moved(&Ownership { place: Place::default(), ..mine.clone() }).await,
    }
}

/// The statement of [`fence`], so that its plan can be explained.
#[must_use]
pub fn fence_statement(
    backend: DbBackend,
    mine: &Ownership,
    checkpoint: &Checkpoint<'_>,
    lease: Duration,
) -> UpdateStatement {
    use partition::Column;
    let callbacks = i64::try_from(checkpoint.callbacks).unwrap_or(i64::MAX);
    let mut update = partition::Entity::update_many()
        .col_expr(Column::AppliedSeq, Expr::value(checkpoint.seq))
        .col_expr(Column::AppliedMsgId, Expr::value(checkpoint.msg_id))
        .col_expr(Column::StreamCreatedAt, Expr::value(checkpoint.stream_created_at))
        .col_expr(Column::AppliedReceivedAt, Expr::value(checkpoint.received_at))
        .col_expr(Column::AppliedAt, clock(backend, Duration::ZERO))
        .col_expr(Column::AppliedCallbacks, Expr::col(Column::AppliedCallbacks).add(callbacks))
        .col_expr(Column::RulesFromSeq, rules_from_seq(mine.applied_seq))
        .col_expr(Column::RulesVersion, Expr::value(RULES_VERSION))
        // A batch that commits proves that nothing stops the partition any more.
        .col_expr(Column::StoppedReason, Expr::value(Option::<String>::None))
        .col_expr(Column::LeaseUntil, clock(backend, lease))
        .filter(Column::Partition.eq(mine.partition))
        .filter(Column::Generation.eq(mine.generation))
        .filter(Column::Epoch.eq(mine.epoch))
        .filter(Column::Owner.eq(mine.owner.as_str()))
        .filter(Column::AppliedSeq.eq(mine.applied_seq));
    if let Place(Some(place)) = &mine.place {
        update = update.filter(Expr::cust_with_values("ctid = $1::text::tid", [place]));
    }
    let place = Returning::new().expr(Place::returned(backend));
    update.into_query().returning(place).to_owned()
}

/// The first sequence that this version of the rules applied: this batch's, if the version is new.
fn rules_from_seq(applied_seq: i64) -> Expr {
    use partition::Column;
    Expr::case(Expr::col(Column::RulesVersion).eq(RULES_VERSION), Expr::col(Column::RulesFromSeq))
        .finally(applied_seq + 1)
        .into()
}

/// Stores the count of dead letters in a row with the checkpoint.
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

/// Loads what the fold of these events needs.
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
            event_ids.insert((event.job_id(), event_id.as_str()));
        }
    }
    let mut known = Known::default();
    if job_ids.is_empty() {
        return Ok(known);
    }

    let backend = transaction.get_database_backend();
    let is_of_batch = |column| rows::is_any(backend, column, job_ids.iter().copied());
    let jobs = job::Entity::find().filter(is_of_batch("id")).all(transaction).await?;
    known.jobs = jobs.into_iter().map(|job| (job.id.clone(), job)).collect();

    // One dead letter of a job says it; any number may be held behind it.
    let (asked, values) = rows::texts(backend, job_ids.iter().copied());
    let sql = format!(
        "SELECT asked.id FROM {asked} WHERE EXISTS \
         (SELECT 1 FROM dead_letters WHERE job_id = asked.id AND state = 'dead')"
    );
    let held = Statement::from_sql_and_values(backend, sql, values);
    for row in transaction.query_all_raw(held).await? {
        known.held.insert(row.try_get("", "id")?);
    }

    event_ids.retain(|(job_id, _)| known.jobs.contains_key(*job_id));
    if !event_ids.is_empty() {
        let (asked, values) = rows::pairs(backend, &event_ids);
        // The order of the join is fixed for SQLite; an event is found by its job and its id.
        let sql = format!(
            "SELECT job_id, event_id, kind FROM {asked} CROSS JOIN job_events \
             WHERE job_id = first AND event_id = second AND kind <> 'heartbeat'"
        );
        let seen = Statement::from_sql_and_values(backend, sql, values);
        for Event { job_id, event_id, kind } in
            Event::find_by_statement(seen).all(transaction).await?
        {
            known.seen.entry((job_id, event_id)).or_default().insert(kind);
        }
    }
    Ok(known)
}

/// A status event of a job with an id.
#[derive(FromQueryResult)]
struct Event {
    job_id: String,
    event_id: String,
    kind: job_event::Kind,
}

/// Writes what a batch decided, with one statement for each table.
///
/// # Errors
/// The database failed or rejected a row; [`Fault`](super::fault::Fault) tells which.
pub async fn write(transaction: &DatabaseTransaction, plan: &Plan) -> Result<(), DbErr> {
    rows::insert(transaction, &plan.jobs, Some(job::Column::Id)).await?;
    rows::insert(transaction, &plan.events, None).await?;
    rows::insert(transaction, &plan.dead_letters, None).await
}
