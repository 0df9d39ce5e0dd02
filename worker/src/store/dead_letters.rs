//! Dead letters: what the owner of a partition does with them when operators ask, and what
//! operators look at.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use crate::entity::dead_letter::{Column, Entity, Model, State};
use crate::rules::event::Position;

/// The callback at a position that is dead, if there is one.
///
/// # Errors
/// When the database fails.
pub async fn dead(
    db: &impl ConnectionTrait,
    partition: i32,
    position: Position,
) -> Result<Option<Model>, DbErr> {
    let letter = find(db, partition, position).await?;
    Ok(letter.filter(|letter| letter.state == State::Dead))
}

/// Whatever there is at a position.
///
/// # Errors
/// When the database fails.
pub async fn find(
    db: &impl ConnectionTrait,
    partition: i32,
    position: Position,
) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id((partition, position.seq, position.idx)).one(db).await
}

/// Takes out what is held of a job, in order.
///
/// # Errors
/// When the database fails.
pub async fn take_held(
    transaction: &DatabaseTransaction,
    job_id: &str,
) -> Result<Vec<Model>, DbErr> {
    let held = || Column::JobId.eq(job_id).and(Column::State.eq(State::Held));
    let letters = Entity::find()
        .filter(held())
        .order_by_asc(Column::Seq)
        .order_by_asc(Column::Idx)
        .all(transaction)
        .await?;
    Entity::delete_many().filter(held()).exec(transaction).await?;
    Ok(letters)
}

/// Takes out one letter.
///
/// # Errors
/// When the database fails.
pub async fn take(transaction: &DatabaseTransaction, letter: &Model) -> Result<(), DbErr> {
    let key = (letter.partition, letter.seq, letter.idx);
    Entity::delete_by_id(key).exec(transaction).await?;
    Ok(())
}

/// Keeps a letter on record, and holds nothing behind it any more.
///
/// # Errors
/// When the database fails.
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

/// Which letters are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Only those of this job.
    pub job_id: Option<String>,
    /// Only those in this state; if none is said, all but the discarded ones.
    pub state: Option<State>,
    /// With the discarded ones, if no state is said.
    pub discarded: bool,
}

/// At most `limit` letters, by position, from behind `after` (a partition and a position in it) on.
///
/// # Errors
/// When the database fails.
pub async fn list(
    db: &impl ConnectionTrait,
    filter: &LetterFilter,
    after: Option<(i32, Position)>,
    limit: u64,
) -> Result<Vec<Model>, DbErr> {
    let mut query = Entity::find();
    if let Some(job_id) = &filter.job_id {
        query = query.filter(Column::JobId.eq(job_id.as_str()));
    }
    match filter.state {
        Some(state) => query = query.filter(Column::State.eq(state)),
        None if !filter.discarded => query = query.filter(Column::State.ne(State::Discarded)),
        None => {}
    }
    if let Some((partition, Position { seq, idx })) = after {
        let place = [Column::Partition, Column::Seq, Column::Idx].map(Expr::col);
        let bound = [Expr::value(partition), Expr::value(seq), Expr::value(idx)];
        query = query.filter(Expr::tuple(place).gt(Expr::tuple(bound)));
    }
    query
        .order_by_asc(Column::Partition)
        .order_by_asc(Column::Seq)
        .order_by_asc(Column::Idx)
        .limit(limit)
        .all(db)
        .await
}
