//! Dead letters: what a partition's owner does with them on an operator's order, and what operators
//! read.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Asterisk, Expr, ExprTrait, Query, SelectStatement, UnionType};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, FromQueryResult, Order,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};

use crate::entity::dead_letter::{Column, Entity, Model, State};
use crate::rules::event::Position;

/// The dead letter at a position, if it is dead.
pub async fn dead(
    db: &impl ConnectionTrait,
    partition: i32,
    position: Position,
) -> Result<Option<Model>, DbErr> {
    let letter = find(db, partition, position).await?;
    Ok(letter.filter(|letter| letter.state == State::Dead))
}

/// The dead letter at a position, in any state.
pub async fn find(
    db: &impl ConnectionTrait,
    partition: i32,
    position: Position,
) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id((partition, position.seq, position.idx)).one(db).await
}

/// Deletes and returns the first `limit` held callbacks of a job after a position, in order.
pub async fn take_held(
    transaction: &DatabaseTransaction,
    job_id: &str,
    after: Position,
    limit: usize,
) -> Result<Vec<Model>, DbErr> {
    let place = || Expr::tuple([Column::Seq, Column::Idx].map(Expr::col));
    let bound = |at: Position| Expr::tuple([Expr::value(at.seq), Expr::value(at.idx)]);
    let held = || {
        let is_held = Column::JobId.eq(job_id).and(Column::State.eq(State::Held));
        is_held.and(place().gt(bound(after)))
    };
    let letters = Entity::find()
        .filter(held())
        .order_by_asc(Column::Seq)
        .order_by_asc(Column::Idx)
        .limit(limit as u64)
        .all(transaction)
        .await?;
    if let Some(last) = letters.last() {
        let taken = held().and(place().lte(bound(last.into())));
        Entity::delete_many().filter(taken).exec(transaction).await?;
    }
    Ok(letters)
}

/// Deletes one letter.
pub async fn take(transaction: &DatabaseTransaction, letter: &Model) -> Result<(), DbErr> {
    let key = (letter.partition, letter.seq, letter.idx);
    Entity::delete_by_id(key).exec(transaction).await?;
    Ok(())
}

/// Marks a letter as discarded: it stays on record, and nothing is held behind it any more.
pub async fn discard(transaction: &DatabaseTransaction, letter: &Model) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::State, Expr::value(State::Discarded))
        .filter(Column::Partition.eq(letter.partition))
        .filter(Column::Seq.eq(letter.seq))
        .filter(Column::Idx.eq(letter.idx))
        .exec(transaction)
        .await?;
    Ok(())
}

/// A letter in a list: without its payload, of which there may be much.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Listed {
    /// The partition.
    pub partition: i32,
    /// The stream sequence.
    pub seq: i64,
    /// The index in the bundle.
    pub idx: i32,
    /// The job; none when it could not be decoded.
    pub job_id: Option<String>,
    /// Why it is here.
    pub state: State,
    /// The error, for people.
    pub reason: String,
    /// The subject on which it was published.
    pub subject: String,
    /// The sender's idempotency key.
    pub event_id: Option<String>,
    /// How many bytes its payload has.
    pub payload_bytes: i32,
    /// When the stream stored it.
    pub received_at: DateTime<Utc>,
    /// How often it was rejected.
    pub refusals: i32,
}

/// Which letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Only those of this job.
    pub job_id: Option<String>,
    /// Only those in this state; without one, all but the discarded ones.
    pub state: Option<State>,
    /// Include discarded ones, if no state is given.
    pub discarded: bool,
}

/// At most `limit` letters after `after` (a partition and a position in it), by position.
pub async fn list(
    db: &impl ConnectionTrait,
    filter: &LetterFilter,
    after: Option<(i32, Position)>,
    limit: u64,
) -> Result<Vec<Listed>, DbErr> {
    let statement = db.get_database_backend().build(&list_statement(filter, after, limit));
    Listed::find_by_statement(statement).all(db).await
}

/// What a list shows beside the size of the payload.
const LISTED: [Column; 10] = [
    Column::Partition,
    Column::Seq,
    Column::Idx,
    Column::JobId,
    Column::State,
    Column::Reason,
    Column::Subject,
    Column::EventId,
    Column::ReceivedAt,
    Column::Refusals,
];

/// The statement of [`list`], so that its plan can be explained. Each state has its own range of the
/// index `dead_letters_state`, so discarded letters cost nothing where they are not asked for.
#[must_use]
pub fn list_statement(
    filter: &LetterFilter,
    after: Option<(i32, Position)>,
    limit: u64,
) -> SelectStatement {
    let range = |state: Option<State>| {
        let mut query = Entity::find()
            .select_only()
            .columns(LISTED)
            .column_as(Expr::cust("length(payload)"), "payload_bytes");
        if let Some(state) = state {
            query = query.filter(Column::State.eq(state));
        }
        if let Some(job_id) = &filter.job_id {
            query = query.filter(Column::JobId.eq(job_id.as_str()));
        }
        if let Some((partition, Position { seq, idx })) = after {
            let place = [Column::Partition, Column::Seq, Column::Idx].map(Expr::col);
            let bound = [Expr::value(partition), Expr::value(seq), Expr::value(idx)];
            query = query.filter(Expr::tuple(place).gt(Expr::tuple(bound)));
        }
        let range = query
            .order_by_asc(Column::Partition)
            .order_by_asc(Column::Seq)
            .order_by_asc(Column::Idx)
            .limit(limit)
            .into_query();
        Query::select().column(Asterisk).from_subquery(range, "range").take()
    };
    let mut select = match filter.state {
        None if filter.discarded => range(None),
        None => {
            let [dead, held] = State::WAITING.map(|state| range(Some(state)));
            let mut both = dead;
            both.union(UnionType::All, held).take()
        }
        state => range(state),
    };
    for column in [Column::Partition, Column::Seq, Column::Idx] {
        select.order_by(column, Order::Asc);
    }
    select.limit(limit).take()
}
