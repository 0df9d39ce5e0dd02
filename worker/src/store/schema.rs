//! Creating and checking the schema.

use std::collections::BTreeSet;

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryOrder,
};
use sea_orm_migration::MigratorTrait;

use super::connection::begin;
use crate::entity::{dead_letter, job, job_event, partition};
use crate::rules::transition::RULES_VERSION;
use crate::store::migration::{Migrator, needed_by};

/// A number that no other program is likely to use for an advisory lock.
const ADVISORY_LOCK: i64 = 0x0061_636b_6c69_6e65;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It is older than this binary.
    #[error("ACK-301: the database has no Ackline schema of this version: run `ackline migrate`")]
    Old,
    /// A newer version has removed what this binary needs.
    #[error(
        "ACK-302: the database belongs to a newer version: its step {step} needs a program that knows \
         step {needed}, and this one knows only {known}. Nothing was changed; run the newer version"
    )]
    New {
        /// The step.
        step: String,
        /// The migration that a program must know to use it.
        needed: usize,
        /// The last migration that this binary knows.
        known: usize,
    },
    /// Another number of partitions was chosen before.
    #[error(
        "ACK-303: the database has {found} partitions, not {wanted}: their number can't be changed"
    )]
    Partitions {
        /// What the database has.
        found: usize,
        /// What was asked for.
        wanted: u16,
    },
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] DbErr),
}

/// Brings the schema up to date, under a lock, so that processes starting together do not race.
///
/// # Errors
/// The database failed; nothing has changed.
pub async fn migrate(db: &DatabaseConnection) -> Result<(), SchemaError> {
    let transaction = begin(db).await?;
    if db.get_database_backend() == DbBackend::Postgres {
        transaction
            .execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            .await?;
    }
    if !is_up_to_date(taken(&transaction).await?)? {
        Migrator::up(&transaction, None).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Checks, read-only, that the schema is neither older than this binary nor too new for it.
///
/// # Errors
/// [`SchemaError::Old`], [`SchemaError::New`], or that the database failed.
pub async fn check(db: &DatabaseConnection) -> Result<(), SchemaError> {
    if is_up_to_date(taken(db).await?)? { Ok(()) } else { Err(SchemaError::Old) }
}

/// Whether the database has every migration that this binary knows. A newer binary may have added
/// more; those do not concern this one.
fn is_up_to_date(taken: Option<BTreeSet<String>>) -> Result<bool, SchemaError> {
    let Some(taken) = taken else { return Ok(false) };
    let steps = Migrator::migrations();
    let known = steps.len();
    for step in &taken {
        if let Some(needed) = needed_by(step).filter(|needed| *needed > known) {
            return Err(SchemaError::New { step: step.clone(), needed, known });
        }
    }
    Ok(steps.iter().all(|step| taken.contains(step.name())))
}

/// The migrations that were applied; none if the database has never been migrated.
async fn taken(db: &impl ConnectionTrait) -> Result<Option<BTreeSet<String>>, DbErr> {
    let has_table = match db.get_database_backend() {
        DbBackend::Sqlite => {
            "SELECT 1 AS found FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'"
        }
        _ => "SELECT 1 AS found WHERE to_regclass('seaql_migrations') IS NOT NULL",
    };
    let statement = sea_orm::Statement::from_string(db.get_database_backend(), has_table);
    if db.query_one_raw(statement).await?.is_none() {
        return Ok(None);
    }
    let applied = sea_orm_migration::seaql_migrations::Entity::find().all(db).await?;
    Ok(Some(applied.into_iter().map(|step| step.version).collect()))
}

/// How many partitions the database has; 0 before `ackline migrate` chose.
pub async fn count_partitions(db: &impl ConnectionTrait) -> Result<usize, DbErr> {
    Ok(usize::try_from(partition::Entity::find().count(db).await?).unwrap_or(usize::MAX))
}

/// Creates the checkpoint rows, or checks that their number is the wanted one.
///
/// # Errors
/// [`SchemaError::Partitions`], or that the database failed.
pub async fn create_partitions(db: &DatabaseConnection, wanted: u16) -> Result<(), SchemaError> {
    let rows = (0..i32::from(wanted)).map(|partition| {
        let row =
            partition::Model { partition, rules_version: RULES_VERSION, ..Default::default() };
        row.into_active_model().reset_all()
    });
    let transaction = begin(db).await?;
    let found = count_partitions(&transaction).await?;
    if found == 0 {
        partition::Entity::insert_many(rows)
            .on_conflict_do_nothing_on([partition::Column::Partition])
            .exec_without_returning(&transaction)
            .await?;
    } else if found != usize::from(wanted) {
        return Err(SchemaError::Partitions { found, wanted });
    }
    transaction.commit().await?;
    Ok(())
}

/// All checkpoint rows, by number.
pub async fn partitions(db: &impl ConnectionTrait) -> Result<Vec<partition::Model>, DbErr> {
    partition::Entity::find().order_by_asc(partition::Column::Partition).all(db).await
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Of jobs.
    pub jobs: u64,
    /// Of their events.
    pub events: u64,
    /// Of dead letters.
    pub dead_letters: u64,
}

/// Counts the rows.
pub async fn counts(db: &impl ConnectionTrait) -> Result<Counts, DbErr> {
    Ok(Counts {
        jobs: job::Entity::find().count(db).await?,
        events: job_event::Entity::find().count(db).await?,
        dead_letters: dead_letter::Entity::find().count(db).await?,
    })
}

/// Whether nothing was ever applied to this database.
pub async fn is_empty(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let untouched = |row: &partition::Model| row.applied_seq == 0 && row.accepted_seq.is_none();
    Ok(counts(db).await? == Counts { jobs: 0, events: 0, dead_letters: 0 }
        && partitions(db).await?.iter().all(untouched))
}
