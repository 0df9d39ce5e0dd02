//! What the audit reads, all in one snapshot. Nothing here writes.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    AccessMode, ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    DbBackend, DbErr, EntityTrait, FromQueryResult, IsolationLevel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select, Statement, TransactionOptions, TransactionTrait,
};

use super::read::of_job;
use super::{accept, schema};
use crate::entity::{dead_letter, job, job_event, partition, partition_gap};
use crate::rules::event::Position;

/// The database as it was at one moment.
#[derive(Debug)]
pub struct Snapshot(DatabaseTransaction);

/// A break in the chain of statuses of a job's events.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Break {
    /// The job.
    pub job_id: String,
    /// The event's partition.
    pub partition: i32,
    /// Its sequence.
    pub seq: i64,
    /// Its index.
    pub idx: i32,
    /// The status after the previous event.
    pub before: Option<String>,
    /// The status that the job had according to this event.
    pub from_status: Option<String>,
    /// The status after this event.
    pub to_status: Option<String>,
    /// The job's status, if this is its last event.
    pub status: Option<String>,
    /// Whether this is the job's last event.
    pub is_last: bool,
}

/// Selects the events, ordered by job, whose status does not follow from the previous event, and
/// last events that do not lead to the job's status. Orders are left out: they concern a dead
/// letter, not a status.
const BREAKS: &str = "
    WITH chain AS (
        SELECT job_id, partition, seq, idx, from_status, to_status,
            LAG(to_status) OVER job AS before, LEAD(seq) OVER job AS next
        FROM job_events WHERE kind NOT IN ('requeue', 'discard')
        WINDOW job AS (PARTITION BY job_id ORDER BY seq, idx)
    )
    SELECT chain.job_id, chain.partition, chain.seq, chain.idx, chain.before, chain.from_status,
        chain.to_status, jobs.status, chain.next IS NULL AS is_last
    FROM chain LEFT JOIN jobs ON jobs.id = chain.job_id
    WHERE chain.before IS DISTINCT FROM chain.from_status
        OR (chain.next IS NULL AND chain.to_status IS DISTINCT FROM jobs.status)
    ORDER BY chain.job_id, chain.seq, chain.idx";

impl Snapshot {
    /// Takes the snapshot.
    pub async fn take(db: &DatabaseConnection) -> Result<Self, DbErr> {
        let is_postgres = db.get_database_backend() == DbBackend::Postgres;
        let transaction = db
            .begin_with_options(TransactionOptions {
                isolation_level: is_postgres.then_some(IsolationLevel::RepeatableRead),
                access_mode: is_postgres.then_some(AccessMode::ReadOnly),
                // SQLite's readers have a snapshot by themselves.
                ..TransactionOptions::default()
            })
            .await?;
        if is_postgres {
            // Reading every event of a large database may take long.
            transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
        }
        Ok(Self(transaction))
    }

    /// All checkpoint rows, by number.
    pub async fn partitions(&self) -> Result<Vec<partition::Model>, DbErr> {
        schema::partitions(&self.0).await
    }

    /// What operators let partitions skip.
    pub async fn gaps(&self) -> Result<Vec<partition_gap::Model>, DbErr> {
        accept::gaps(&self.0).await
    }

    /// A partition's events after a position.
    pub async fn events(
        &self,
        number: i32,
        after: Position,
        limit: u64,
    ) -> Result<Vec<job_event::Model>, DbErr> {
        use job_event::{Column, Entity};
        let key = (Column::Partition, Column::Seq, Column::Idx);
        later(Entity::find(), key, number, after).limit(limit).all(&self.0).await
    }

    /// A partition's dead letters after a position.
    pub async fn letters(
        &self,
        number: i32,
        after: Position,
        limit: u64,
    ) -> Result<Vec<dead_letter::Model>, DbErr> {
        use dead_letter::{Column, Entity};
        let key = (Column::Partition, Column::Seq, Column::Idx);
        later(Entity::find(), key, number, after).limit(limit).all(&self.0).await
    }

    /// A partition's outstanding refusals at or after a sequence, with their reasons.
    pub async fn refusals(
        &self,
        number: i32,
        from_seq: i64,
    ) -> Result<Vec<(Position, i32, String)>, DbErr> {
        use dead_letter::{Column, State};
        let rows: Vec<(i64, i32, i32, String)> = dead_letter::Entity::find()
            .select_only()
            .columns([Column::Seq, Column::Idx, Column::Refusals, Column::Reason])
            .filter(Column::Partition.eq(number))
            .filter(Column::Seq.gte(from_seq))
            .filter(Column::State.ne(State::Held))
            .into_tuple()
            .all(&self.0)
            .await?;
        let refusal = |(seq, idx, refusals, reason)| (Position { seq, idx }, refusals, reason);
        Ok(rows.into_iter().map(refusal).collect())
    }

    /// The jobs that are held behind a dead letter below a sequence, of any partition.
    pub async fn held_since_before(&self, seq: i64) -> Result<Vec<Option<String>>, DbErr> {
        use dead_letter::{Column, State};
        dead_letter::Entity::find()
            .select_only()
            .column(Column::JobId)
            .distinct()
            .filter(Column::Seq.lt(seq))
            .filter(Column::State.ne(State::Discarded))
            .filter(Column::JobId.is_not_null())
            .into_tuple()
            .all(&self.0)
            .await
    }

    /// Jobs by id.
    pub async fn jobs(&self, ids: &[&str]) -> Result<Vec<job::Model>, DbErr> {
        job::Entity::find().filter(job::Column::Id.is_in(ids.iter().copied())).all(&self.0).await
    }

    /// How many jobs there are.
    pub async fn count_jobs(&self) -> Result<u64, DbErr> {
        job::Entity::find().count(&self.0).await
    }

    /// How many jobs of each partition were first heard of at or after a sequence, all in one scan.
    pub async fn count_first_heard(&self, from: &[(i32, i64)]) -> Result<Vec<(i32, i64)>, DbErr> {
        let any = from.iter().fold(Condition::any(), |any, (number, seq)| {
            any.add(job::Column::Partition.eq(*number).and(job::Column::FirstSeq.gte(*seq)))
        });
        job::Entity::find()
            .select_only()
            .column(job::Column::Partition)
            .column_as(job::Column::Id.count(), "jobs")
            .filter(any)
            .group_by(job::Column::Partition)
            .into_tuple()
            .all(&self.0)
            .await
    }

    /// The first few breaks in the events of jobs.
    pub async fn breaks(&self, limit: u64) -> Result<Vec<Break>, DbErr> {
        let statement = format!("{BREAKS} LIMIT {limit}");
        let backend = self.0.get_database_backend();
        Break::find_by_statement(Statement::from_string(backend, statement)).all(&self.0).await
    }

    /// The first few jobs that have no event.
    pub async fn without_events(&self, limit: u64) -> Result<Vec<(i32, String)>, DbErr> {
        let its_events = of_job::<job_event::Entity>(job_event::Column::JobId);
        job::Entity::find()
            .select_only()
            .columns([job::Column::Partition, job::Column::Id])
            .filter(Expr::exists(its_events.into_query()).not())
            .order_by_asc(job::Column::Id)
            .limit(limit)
            .into_tuple()
            .all(&self.0)
            .await
    }
}

/// The rows of a partition after a position, in the order of the primary key.
fn later<E: EntityTrait>(
    rows: Select<E>,
    (partition, seq, idx): (E::Column, E::Column, E::Column),
    number: i32,
    after: Position,
) -> Select<E> {
    let position = Expr::tuple([Expr::col(seq.as_column_ref()), Expr::col(idx.as_column_ref())]);
    let after = Expr::tuple([Expr::value(after.seq), Expr::value(after.idx)]);
    let rows = rows.filter(partition.eq(number)).filter(position.gt(after));
    rows.order_by_asc(seq).order_by_asc(idx)
}
