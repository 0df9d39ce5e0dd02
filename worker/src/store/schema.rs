//! Creating and checking the schema.

use std::collections::BTreeSet;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr,
    EntityTrait, IntoActiveModel, PaginatorTrait, QueryOrder, QuerySelect,
};
use sea_orm_migration::MigratorTrait;

use shared::partition::{Layout, MAX_PARTITIONS};

use super::connection::begin;
use super::fault;
use crate::entity::{dead_letter, job, job_event, partition, partition_gap};
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
    /// The checkpoints are of other streams.
    #[error(
        "ACK-303: the database has {} partitions of generation {}, not {} of generation {}: they \
         are changed with `ackline partitions resize`",
        found.partitions(), found.generation(), wanted.partitions(), wanted.generation()
    )]
    Partitions {
        /// What the database has.
        found: Layout,
        /// What was asked for.
        wanted: Layout,
    },
    /// It cannot hold every text.
    #[error(
        "ACK-307: the encoding of the database is {found}, and the texts of callbacks need {needed}: \
         {remedy}. Nothing was changed"
    )]
    Encoding {
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
        /// How to get such a database.
        remedy: &'static str,
    },
    /// The database failed.
    #[error("the database failed: {}", fault::text(.0))]
    Database(DbErr),
}

impl From<DbErr> for SchemaError {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// Brings the schema up to date, under a lock, so that processes starting together do not race.
///
/// # Errors
/// [`SchemaError::Encoding`], or that the database failed; nothing has changed.
pub async fn migrate(db: &DatabaseConnection) -> Result<(), SchemaError> {
    check_encoding(db).await?;
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

/// Refuses a database in which some callbacks, and the dead letters that they become, cannot be
/// written.
async fn check_encoding(db: &DatabaseConnection) -> Result<(), SchemaError> {
    let backend = db.get_database_backend();
    let (asking, needed, remedy) = match backend {
        DbBackend::Sqlite => (
            "SELECT encoding FROM pragma_encoding",
            "UTF-8",
            "name a file in DATABASE_URL that does not exist yet, and `ackline migrate` creates it",
        ),
        _ => (
            "SELECT current_setting('server_encoding') AS encoding",
            "UTF8",
            "create another one (CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C') \
             and name it in DATABASE_URL",
        ),
    };
    let row = db.query_one_raw(sea_orm::Statement::from_string(backend, asking)).await?;
    let found: String = row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or_default();
    if found == needed {
        return Ok(());
    }
    Err(SchemaError::Encoding { found, needed, remedy })
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

/// Creates the checkpoint rows, or checks that they are those of this layout.
///
/// # Errors
/// [`SchemaError::Partitions`], or that the database failed.
pub async fn create_partitions(db: &DatabaseConnection, wanted: Layout) -> Result<(), SchemaError> {
    let rows = wanted.all().map(|partition| {
        let row = partition::Model {
            partition: i32::from(partition.number()),
            generation: i32::try_from(wanted.generation()).unwrap_or(i32::MAX),
            rules_version: RULES_VERSION,
            ..Default::default()
        };
        row.into_active_model().reset_all()
    });
    let transaction = begin(db).await?;
    match layout(&transaction).await? {
        None => {
            partition::Entity::insert_many(rows)
                .on_conflict_do_nothing_on([partition::Column::Partition])
                .exec_without_returning(&transaction)
                .await?;
        }
        Some(found) if found == wanted => {}
        Some(found) => return Err(SchemaError::Partitions { found, wanted }),
    }
    transaction.commit().await?;
    Ok(())
}

/// The streams that the checkpoints are of; none before `ackline migrate` chose.
pub async fn layout(db: &impl ConnectionTrait) -> Result<Option<Layout>, DbErr> {
    Ok(layout_of(&partitions(db).await?))
}

/// The streams that these checkpoint rows, which are all, are of.
#[must_use]
pub fn layout_of(rows: &[partition::Model]) -> Option<Layout> {
    let generation = u32::try_from(rows.first()?.generation).ok()?;
    let partitions = u16::try_from(rows.len()).ok().filter(|number| *number <= MAX_PARTITIONS)?;
    Some(Layout::new(generation, partitions))
}

/// All checkpoint rows, by number.
pub async fn partitions(db: &impl ConnectionTrait) -> Result<Vec<partition::Model>, DbErr> {
    partition::Entity::find().order_by_asc(partition::Column::Partition).all(db).await
}

/// How many numbers of partitions there are or were. The row of a finished job may name one of an
/// earlier generation.
pub async fn numbers(db: &impl ConnectionTrait, rows: &[partition::Model]) -> Result<i32, DbErr> {
    let were: Option<Option<i32>> = partition_gap::Entity::find()
        .select_only()
        .column_as(partition_gap::Column::Partition.max(), "most")
        .into_tuple()
        .one(db)
        .await?;
    let are = i32::try_from(rows.len()).unwrap_or(i32::MAX);
    Ok(were.flatten().map_or(are, |most| are.max(most + 1)))
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
