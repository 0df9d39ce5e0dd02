//! Applies a batch in one transaction: fence, load, fold, write, commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};

use crate::batch::{self, InRow, Plan};
use crate::consumer::Received;
use crate::event::Incoming;
use crate::store::batch::{Checkpoint, Ownership};
use crate::store::{self, StoreError, connection};

/// Why a batch was not applied. Nothing of it has taken effect, unless `Failed` says that the
/// commit's outcome is unknown; acquiring the partition anew finds out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Another process owns the partition.
    #[error("another worker owns the partition")]
    Fenced,
    /// The batch would leave more dead letters in a row than a sound deployment has.
    #[error("too many dead letters in a row")]
    DeadLetterLimit,
    /// The database failed; back off and begin anew.
    #[error("the database failed: {0}")]
    Failed(#[from] DbErr),
}

/// What a batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many events had which effect.
    pub effects: std::collections::BTreeMap<&'static str, u64>,
    in_row: InRow,
}

impl Applied {
    fn add(&mut self, plan: Plan) {
        for (effect, count) in plan.effects {
            *self.effects.entry(effect).or_default() += count;
        }
        self.in_row.then(plan.in_row);
    }
}

/// The settings of applying.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What a batch renews the lease by.
    pub lease: Duration,
    /// How many dead letters may follow each other.
    pub dead_letter_limit: i32,
}

/// Applies messages that follow the checkpoint and moves `mine` along.
///
/// Poison policy: a callback that the database refuses whenever it is tried becomes a dead letter
/// in the checkpoint's transaction, and later callbacks of its job are held behind it; all other
/// jobs go on. Any other fault of the database is tried again, for ever, by the caller.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(
    db: &DatabaseConnection,
    mine: &mut Ownership,
    messages: &[Received],
    stream_created_at: DateTime<Utc>,
    limits: Limits,
) -> Result<Applied, ApplyError> {
    let Some(last) = messages.last() else { return Ok(Applied::default()) };
    let incoming: Vec<Incoming> =
        messages.iter().flat_map(|message| message.incoming.iter().cloned()).collect();
    let checkpoint =
        Checkpoint { seq: last.seq, msg_id: last.msg_id.as_deref(), stream_created_at };

    // Savepoints cost two round trips, so only a batch that was refused pays for them.
    let applied = match attempt(db, mine, &incoming, &checkpoint, limits, false).await {
        Err(Refusal::Refused(_)) => attempt(db, mine, &incoming, &checkpoint, limits, true).await,
        other => other,
    };
    let applied = applied.map_err(|refusal| match refusal {
        // Not even the dead letter: nothing that another try could not mend.
        Refusal::Refused(error) => error.into(),
        Refusal::Apply(error) => error,
    })?;
    mine.applied_seq = last.seq;
    mine.dead_letters_in_row = applied.in_row.now;
    Ok(applied)
}

enum Refusal {
    /// The database refuses something in the batch whenever it is tried.
    Refused(DbErr),
    Apply(ApplyError),
}

impl From<DbErr> for Refusal {
    fn from(error: DbErr) -> Self {
        match StoreError::from(error) {
            StoreError::Deterministic(error) => Self::Refused(error),
            StoreError::Transient(error) => Self::Apply(error.into()),
        }
    }
}

async fn attempt(
    db: &DatabaseConnection,
    mine: &Ownership,
    incoming: &[Incoming],
    checkpoint: &Checkpoint<'_>,
    limits: Limits,
    bisect: bool,
) -> Result<Applied, Refusal> {
    let transaction = connection::begin(db).await?;
    if !store::batch::fence(&transaction, mine, checkpoint, limits.lease).await? {
        return Err(Refusal::Apply(ApplyError::Fenced));
    }
    let before = mine.dead_letters_in_row;
    let mut applied = Applied { in_row: InRow::from(before), ..Applied::default() };
    if bisect {
        halve(&transaction, mine.partition, incoming, &mut applied).await?;
    } else {
        applied.add(apply_all(&transaction, mine.partition, incoming, before).await?);
    }
    if applied.in_row.most > limits.dead_letter_limit {
        return Err(Refusal::Apply(ApplyError::DeadLetterLimit));
    }
    if applied.in_row.now != before {
        store::batch::set_in_row(&transaction, mine.partition, applied.in_row.now).await?;
    }
    // A commit whose answer is lost may have happened: it is never sorted as a refusal.
    transaction.commit().await.map_err(|error| Refusal::Apply(error.into()))?;
    Ok(applied)
}

async fn apply_all(
    transaction: &DatabaseTransaction,
    partition: i32,
    incoming: &[Incoming],
    in_row: i32,
) -> Result<Plan, DbErr> {
    let known = store::batch::load(transaction, incoming).await?;
    let plan = batch::fold(known, incoming, partition, in_row);
    store::batch::write(transaction, &plan).await?;
    Ok(plan)
}

/// Applies in halves, each in a savepoint, down to the one callback that is refused.
async fn halve(
    transaction: &DatabaseTransaction,
    partition: i32,
    incoming: &[Incoming],
    applied: &mut Applied,
) -> Result<(), DbErr> {
    let savepoint = transaction.begin().await?;
    let error = match apply_all(&savepoint, partition, incoming, applied.in_row.now).await {
        Ok(plan) => {
            savepoint.commit().await?;
            applied.add(plan);
            return Ok(());
        }
        Err(error) => error,
    };
    savepoint.rollback().await?;
    let refused = match StoreError::from(error) {
        StoreError::Transient(error) => return Err(error),
        refused @ StoreError::Deterministic(_) => refused,
    };
    if let [one] = incoming {
        let plan = batch::bury(one, partition, applied.in_row.now, &refused.to_string());
        store::batch::write(transaction, &plan).await?;
        tracing::error!(
            partition,
            seq = one.position.seq,
            idx = one.position.idx,
            job_id = one.event.as_ref().ok().map(crate::event::Event::job_id),
            "a callback became a dead letter: the database refuses it"
        );
        applied.add(plan);
        return Ok(());
    }
    let (first, second) = incoming.split_at(incoming.len() / 2);
    Box::pin(halve(transaction, partition, first, applied)).await?;
    Box::pin(halve(transaction, partition, second, applied)).await
}
