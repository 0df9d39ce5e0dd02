//! Applies a batch in one transaction: fence, load, fold, write, commit.

pub mod internal;
pub mod redrive;

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};
use shared::partition::Partition;

use crate::entity::dead_letter::Model as DeadLetter;
use crate::rules::batch::{self, InRow, Plan};
use crate::rules::decision::{Decision, Effect, Reason};
use crate::rules::event::{
    Action, Content, Incoming, MAX_REASON_BYTES, Order, Position, decode_again, without_nul,
};
use crate::rules::known_refusals::KnownRefusals;
use crate::store::batch::{Checkpoint, Ownership};
use crate::store::fault::{self, Fault};
use crate::store::partitions::Place;
use crate::store::{self, connection, dead_letters};

/// How many held callbacks are in memory at a time while they are applied.
const HELD_PAGE: usize = 1000;

/// Why a batch was not applied. Nothing of it has taken effect, except that after `Failed` the
/// outcome of the commit may be unknown; acquiring the partition again finds out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Another process owns the partition.
    #[error("another worker owns the partition")]
    Fenced,
    /// The batch would leave more dead letters in a row than a healthy deployment has.
    #[error("too many dead letters in a row")]
    DeadLetterLimit,
    /// The database failed; back off and acquire the partition again.
    #[error("the database failed: {0}")]
    Failed(#[from] DbErr),
}

/// What a batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many events had which effect.
    pub effects: BTreeMap<Effect, u64>,
    /// How many of them were ignored for which reason.
    pub ignored: BTreeMap<Reason, u64>,
    /// Every decision, in order.
    pub decisions: Vec<Decision>,
    /// Dead letters that were tried again, and the first of what was held behind them.
    pub redriven: Vec<Incoming>,
    in_row: InRow,
    place: Place,
}

impl Applied {
    fn add(&mut self, plan: Plan) {
        for (effect, count) in plan.effects {
            *self.effects.entry(effect).or_default() += count;
        }
        for (reason, count) in plan.ignored {
            *self.ignored.entry(reason).or_default() += count;
        }
        if self.decisions.is_empty() {
            self.decisions = plan.decisions;
        } else {
            self.decisions.extend(plan.decisions);
        }
        self.in_row.then(plan.in_row);
    }
}

/// The parameters of applying.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The partition that is applied.
    pub partition: Partition,
    /// The lease, which a batch renews.
    pub lease: Duration,
    /// How many dead letters in a row a partition may have.
    pub dead_letter_limit: i32,
}

/// Applies the entries of the messages after the checkpoint, up to `checkpoint`, and moves `mine`
/// along.
///
/// Poison policy: a callback that the database rejects on every attempt becomes a dead letter in
/// the checkpoint's transaction, and later callbacks of its job are held behind it. All other jobs
/// continue. The caller retries any other fault of the database, for ever.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(
    db: &DatabaseConnection,
    mine: &mut Ownership,
    checkpoint: &Checkpoint<'_>,
    incoming: &[Incoming],
    known_refusals: &KnownRefusals,
    limits: Limits,
) -> Result<Applied, ApplyError> {
    // Savepoints cost two round trips, so only a rejected batch pays for them.
    let attempt = |bisect| attempt(db, mine, incoming, checkpoint, known_refusals, limits, bisect);
    let applied = match attempt(false).await {
        Err(Refusal::Refused(_)) => attempt(true).await,
        other => other,
    };
    let mut applied = applied.map_err(|refusal| match refusal {
        // Not even the dead letter could be written: retry.
        Refusal::Refused(error) => error.into(),
        Refusal::Apply(error) => error,
    })?;
    mine.applied_seq = checkpoint.seq;
    mine.dead_letters_in_row = applied.in_row.now;
    mine.place = std::mem::take(&mut applied.place);
    Ok(applied)
}

enum Refusal {
    /// The database rejects something in the batch on every attempt.
    Refused(DbErr),
    Apply(ApplyError),
}

impl From<DbErr> for Refusal {
    fn from(error: DbErr) -> Self {
        match Fault::of(&error) {
            Fault::Callback => Self::Refused(error),
            Fault::Server | Fault::Connection => Self::Apply(error.into()),
        }
    }
}

async fn attempt(
    db: &DatabaseConnection,
    mine: &Ownership,
    incoming: &[Incoming],
    checkpoint: &Checkpoint<'_>,
    known_refusals: &KnownRefusals,
    limits: Limits,
    bisect: bool,
) -> Result<Applied, Refusal> {
    let transaction = connection::begin(db).await?;
    let Some(place) = store::batch::fence(&transaction, mine, checkpoint, limits.lease).await?
    else {
        return Err(Refusal::Apply(ApplyError::Fenced));
    };
    if bisect {
        connection::check_at_once(&transaction).await?;
    }
    let before = mine.dead_letters_in_row;
    let mut applied = Applied { in_row: InRow::from(before), ..Applied::default() };
    let mut target =
        Target { transaction: &transaction, known_refusals, limits, bisect, applied: &mut applied };
    for part in incoming.split_inclusive(|one| matches!(one.content, Content::Order(_))) {
        let (events, order) = match part.split_last() {
            Some((asked, events)) => match &asked.content {
                Content::Order(order) => (events, Some((asked, order))),
                _ => (part, None),
            },
            None => (part, None),
        };
        target.apply(events).await?;
        if let Some((asked, order)) = order {
            target.redrive(asked, order).await?;
        }
    }
    if applied.in_row.most > limits.dead_letter_limit {
        return Err(Refusal::Apply(ApplyError::DeadLetterLimit));
    }
    applied.place = place;
    if applied.in_row.now != before {
        store::batch::set_in_row(&transaction, mine.partition, applied.in_row.now).await?;
        applied.place = Place::default();
    }
    // A commit whose answer is lost may have happened. One that the database refuses has not: a
    // deferred constraint or trigger was only checked then.
    transaction.commit().await?;
    Ok(applied)
}

/// The transaction that a batch is applied in.
struct Target<'a> {
    transaction: &'a DatabaseTransaction,
    known_refusals: &'a KnownRefusals,
    limits: Limits,
    bisect: bool,
    applied: &'a mut Applied,
}

impl Target<'_> {
    fn partition(&self) -> i32 {
        i32::from(self.limits.partition.number())
    }

    async fn apply(&mut self, events: &[Incoming]) -> Result<(), DbErr> {
        if events.is_empty() {
            return Ok(());
        }
        if self.bisect {
            return self.halve(events).await;
        }
        let plan = self.fold(self.transaction, events).await?;
        self.applied.add(plan);
        Ok(())
    }

    async fn fold(
        &self,
        transaction: &DatabaseTransaction,
        events: &[Incoming],
    ) -> Result<Plan, DbErr> {
        let known = store::batch::load(transaction, events).await?;
        let plan = batch::fold(
            known,
            events,
            self.known_refusals,
            self.partition(),
            self.applied.in_row.now,
        );
        store::batch::write(transaction, &plan).await?;
        Ok(plan)
    }

    /// Applies in halves, each in a savepoint, down to the one callback that is rejected.
    async fn halve(&mut self, events: &[Incoming]) -> Result<(), DbErr> {
        let savepoint = self.transaction.begin().await?;
        let error = match self.fold(&savepoint, events).await {
            Ok(plan) => {
                savepoint.commit().await?;
                self.applied.add(plan);
                return Ok(());
            }
            Err(error) => error,
        };
        // A refusal can end the whole transaction on SQLite. It is the cause then, and not that there
        // is nothing to roll back to.
        if savepoint.rollback().await.is_err() {
            return Err(error);
        }
        if Fault::of(&error) != Fault::Callback {
            return Err(error);
        }
        let [one] = events else {
            let (first, second) = events.split_at(events.len() / 2);
            Box::pin(self.halve(first)).await?;
            return Box::pin(self.halve(second)).await;
        };
        let in_row = self.applied.in_row.now;
        let reason = format!("the database refuses it: {}", fault::text(&error));
        let reason = without_nul(&reason, MAX_REASON_BYTES);
        let plan = batch::bury(one, in_row, &reason);
        store::batch::write(self.transaction, &plan).await?;
        self.applied.add(plan);
        Ok(())
    }

    /// Carries out an order about a dead letter, and then applies what is held behind it. Every
    /// callback is applied at its own position and time, so the rows become what they would have
    /// been without the fault.
    async fn redrive(&mut self, asked: &Incoming, order: &Order) -> Result<(), DbErr> {
        let transaction = self.transaction;
        let letter = dead_letters::dead(transaction, order.partition, order.target).await?;
        let letter = letter.filter(|letter| letter.refusals == order.refusal);
        let job_id = letter.as_ref().map(|letter| letter.job_id.clone());
        let job_id = job_id.as_ref().map(Option::as_deref);
        let in_row = self.applied.in_row.now;
        let plan = batch::record(asked, order, job_id, in_row);
        store::batch::write(transaction, &plan).await?;
        self.applied.add(plan);
        let Some(letter) = letter else { return Ok(()) };

        match order.action {
            Action::Discard => dead_letters::discard(transaction, &letter).await?,
            Action::Requeue => dead_letters::take(transaction, &letter).await?,
        }
        let job_id = letter.job_id.clone();
        let mut letters = match order.action {
            Action::Discard => Vec::new(),
            Action::Requeue => vec![letter],
        };
        // Page by page, because any number of callbacks can be held. What a page leaves held again
        // lies before the next page.
        let (mut after, mut is_first) = (Position { seq: 0, idx: 0 }, true);
        loop {
            let mut is_last = true;
            if let Some(job_id) = &job_id {
                let held = dead_letters::take_held(transaction, job_id, after, HELD_PAGE).await?;
                is_last = held.len() < HELD_PAGE;
                after = held.last().map_or(after, Position::from);
                letters.extend(held);
            }
            self.apply_again(asked, std::mem::take(&mut letters), is_first).await?;
            if is_last {
                return Ok(());
            }
            is_first = false;
        }
    }

    /// Applies letters again. Only those of an order's first page are told one by one; the others
    /// are counted.
    async fn apply_again(
        &mut self,
        asked: &Incoming,
        letters: Vec<DeadLetter>,
        is_told: bool,
    ) -> Result<(), DbErr> {
        let again = |letter| decode_again(letter, self.limits.partition, asked.position);
        let events: Vec<Incoming> = letters.into_iter().map(again).collect();
        let decided = self.applied.decisions.len();
        self.apply(&events).await?;
        if is_told {
            self.applied.redriven.extend(events);
        } else {
            self.applied.decisions.truncate(decided);
        }
        Ok(())
    }
}
