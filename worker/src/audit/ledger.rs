//! The database's rows of a partition, in the order of the stream, page by page.

use std::collections::VecDeque;

use sea_orm::DbErr;

use crate::entity::{dead_letter, job_event};
use crate::rules::event::Position;
use crate::store::audit::Snapshot;

const EVENTS: u64 = 5000;
/// A dead letter may be as large as a message.
const LETTERS: u64 = 32;

/// Reads the rows in step with the stream.
pub(super) struct Ledger<'a> {
    snapshot: &'a Snapshot,
    partition: i32,
    events: Page<job_event::Model>,
    letters: Page<dead_letter::Model>,
}

/// The rows of a table that were read and not yet taken.
struct Page<T> {
    rows: VecDeque<T>,
    after: Position,
    ended: bool,
    limit: u64,
}

impl<T> Page<T>
where
    for<'row> Position: From<&'row T>,
{
    fn new(after: Position, limit: u64) -> Self {
        Self { rows: VecDeque::new(), after, ended: false, limit }
    }

    /// The next row, if it is not above this position. Reads more if there is none.
    async fn next(
        &mut self,
        until: Position,
        read: impl AsyncFnOnce(Position, u64) -> Result<Vec<T>, DbErr>,
    ) -> Result<Option<T>, DbErr> {
        if self.rows.is_empty() && !self.ended {
            let rows = read(self.after, self.limit).await?;
            self.ended = (rows.len() as u64) < self.limit;
            self.after = rows.last().map_or(self.after, Position::from);
            self.rows = rows.into();
        }
        Ok(self.rows.pop_front_if(|row| Position::from(&*row) <= until))
    }
}

impl<'a> Ledger<'a> {
    /// The rows from a sequence on. There is no upper bound, because no row may be above the
    /// checkpoint.
    pub(super) fn new(snapshot: &'a Snapshot, partition: i32, from_seq: i64) -> Self {
        let after = Position { seq: from_seq, idx: -1 };
        let (events, letters) = (Page::new(after, EVENTS), Page::new(after, LETTERS));
        Self { snapshot, partition, events, letters }
    }

    /// The next event, if it is not above this position.
    pub(super) async fn event(
        &mut self,
        until: Position,
    ) -> Result<Option<job_event::Model>, DbErr> {
        let (snapshot, partition) = (self.snapshot, self.partition);
        let read = async |after, limit| snapshot.events(partition, after, limit).await;
        self.events.next(until, read).await
    }

    /// The next dead letter, if it is not above this position.
    pub(super) async fn letter(
        &mut self,
        until: Position,
    ) -> Result<Option<dead_letter::Model>, DbErr> {
        let (snapshot, partition) = (self.snapshot, self.partition);
        let read = async |after, limit| snapshot.letters(partition, after, limit).await;
        self.letters.next(until, read).await
    }
}
