//! Decisions of people about a dead letter. They go to the owner of its partition through the
//! stream, so that they take effect in order, and again in a replay.

use std::time::Duration;

use async_nats::jetstream;
use sea_orm::{DatabaseConnection, DbErr};
use shared::partition::{MAX_PARTITIONS, Partition};
use tokio::time::{Instant, sleep};

use super::internal;
use crate::entity::dead_letter::{Model as DeadLetter, State};
use crate::rules::event::{Action, Order, Position};
use crate::store::dead_letters::{self, Listed};
use crate::store::schema;

const POLL: Duration = Duration::from_millis(100);

/// A dead letter's position, as `PARTITION/SEQUENCE/INDEX`; in URLs with `-` in place of `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterId {
    /// The number of the partition, in the generation that the letter is of.
    pub partition: i32,
    /// The position in its stream.
    pub position: Position,
}

impl LetterId {
    /// The position of a letter.
    #[must_use]
    pub fn of(letter: &DeadLetter) -> Self {
        Self { partition: letter.partition, position: Position::from(letter) }
    }

    /// The position of a letter in a list.
    #[must_use]
    pub fn of_listed(letter: &Listed) -> Self {
        let position = Position { seq: letter.seq, idx: letter.idx };
        Self { partition: letter.partition, position }
    }

    /// The form for URLs.
    #[must_use]
    pub fn in_address(&self) -> String {
        format!("{:02}-{}-{}", self.partition, self.position.seq, self.position.idx)
    }
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut parts = text.split(['/', '-']);
            let partition: u16 = parts.next()?.parse().ok().filter(|it| *it < MAX_PARTITIONS)?;
            let position =
                Position { seq: parts.next()?.parse().ok()?, idx: parts.next()?.parse().ok()? };
            parts.next().is_none().then_some(Self { partition: partition.into(), position })
        };
        read().ok_or_else(|| format!("\"{text}\" is not PARTITION/SEQUENCE/INDEX like 03/17/0"))
    }
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}/{}/{}", self.partition, self.position.seq, self.position.idx)
    }
}

/// Why an order was not given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no dead letter.
    #[error("there is no dead letter at {0}: see `ackline dead-letters list`")]
    NotThere(LetterId),
    /// It was discarded before.
    #[error("{0} is discarded already")]
    Discarded(LetterId),
    /// It is held behind another one.
    #[error(
        "{place} is sound, but held behind a dead letter of its job {job_id:?}: decide about that one"
    )]
    Held {
        /// The callback.
        place: LetterId,
        /// Its job.
        job_id: String,
    },
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    /// The stream has not confirmed the order.
    #[error("the stream has not confirmed the order, which may take effect all the same: {0:#}")]
    Stream(anyhow::Error),
}

/// The outcome of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// The letter was applied, or ignored by the rules like any callback; it is no longer dead.
    Applied,
    /// The letter never takes effect.
    Discarded,
    /// The database rejected it again; why.
    Refused(String),
    /// No worker has reached the order yet; its sequence in the stream. It will take effect.
    Waiting(i64),
}

/// Gives an order to the owner of the partition, and waits at most this long until it was carried
/// out.
///
/// # Errors
/// [`OrderError`].
pub async fn order(
    db: &DatabaseConnection,
    jetstream: &jetstream::Context,
    place: LetterId,
    action: Action,
    wait: Duration,
) -> Result<Done, OrderError> {
    let letter = existing(db, place).await?;
    match letter.state {
        State::Dead => {}
        State::Discarded => return Err(OrderError::Discarded(place)),
        State::Held => {
            let job_id = letter.job_id.unwrap_or_default();
            return Err(OrderError::Held { place, job_id });
        }
    }
    let home = home(db, &letter).await?.ok_or(OrderError::NotThere(place))?;
    let seq = publish(jetstream, home, &letter, action).await.map_err(OrderError::Stream)?;

    let deadline = Instant::now() + wait;
    let number = usize::from(home.number());
    while schema::partitions(db).await?.get(number).is_none_or(|row| row.applied_seq < seq) {
        if Instant::now() >= deadline {
            return Ok(Done::Waiting(seq));
        }
        sleep(POLL).await;
    }
    let now = dead_letters::find(db, letter.partition, place.position).await?;
    Ok(match (action, now) {
        (Action::Requeue, Some(letter)) => Done::Refused(letter.reason),
        (Action::Requeue, None) => Done::Applied,
        (Action::Discard, _) => Done::Discarded,
    })
}

/// The letter at a position.
///
/// # Errors
/// There is none, or the database failed.
pub async fn existing(db: &DatabaseConnection, place: LetterId) -> Result<DeadLetter, OrderError> {
    let letter = dead_letters::find(db, place.partition, place.position).await?;
    letter.ok_or(OrderError::NotThere(place))
}

/// The partition whose owner decides about a letter: that of its job now.
async fn home(db: &DatabaseConnection, letter: &DeadLetter) -> Result<Option<Partition>, DbErr> {
    let Some(layout) = schema::layout(db).await? else { return Ok(None) };
    Ok(match &letter.job_id {
        Some(job_id) => Some(layout.of_job(job_id)),
        None => layout.partition(letter.partition % i32::from(layout.partitions())),
    })
}

async fn publish(
    jetstream: &jetstream::Context,
    home: Partition,
    letter: &DeadLetter,
    action: Action,
) -> anyhow::Result<i64> {
    let LetterId { partition, position: target } = LetterId::of(letter);
    let (refusal, reason) = (letter.refusals, letter.reason.clone());
    let body = Order { action, partition, target, refusal, reason }.to_body();
    #[expect(clippy::disallowed_methods, reason = "it is written down, and decides nothing")]
    let received_ms = chrono::Utc::now().timestamp_millis();
    let job_id = letter.job_id.as_deref().unwrap_or_default();
    let entry = internal::entry("operator", job_id, received_ms, &body);
    internal::publish(jetstream, home, home.orders_subject(), entry).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        let place: LetterId = "03/17/0".parse().unwrap();
        assert_eq!(place.to_string(), "03/17/0");
        assert_eq!(place.in_address().parse(), Ok(place));
        for bad in ["", "3/17", "3/17/0/1", "x/1/0", "100/1/0", "3/-/0", "3/1/99999999999"] {
            assert!(bad.parse::<LetterId>().is_err(), "{bad}");
        }
    }
}
