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
}

impl<T> Page<T> {
    fn new(after: Position) -> Self {
        Self { rows: VecDeque::new(), after, ended: false }
    }

    fn add(&mut self, rows: Vec<T>, limit: u64, position: impl Fn(&T) -> Position) {
        self.ended = (rows.len() as u64) < limit;
        self.after = rows.last().map_or(self.after, position);
        self.rows = rows.into();
    }
}

fn event_position(row: &job_event::Model) -> Position {
    Position { seq: row.seq, idx: row.idx }
}

fn letter_position(row: &dead_letter::Model) -> Position {
    Position { seq: row.seq, idx: row.idx }
}

impl<'a> Ledger<'a> {
    /// The rows from a sequence on. There is no upper bound, because no row may be above the
    /// checkpoint.
    pub(super) fn new(snapshot: &'a Snapshot, partition: i32, from_seq: i64) -> Self {
        let after = Position { seq: from_seq, idx: -1 };
        let (events, letters) = (Page::new(after), Page::new(after));
        Self { snapshot, partition, events, letters }
    }

    /// The next event, if it is not above this position.
    pub(super) async fn event(
        &mut self,
        until: Position,
    ) -> Result<Option<job_event::Model>, DbErr> {
        let page = &mut self.events;
        if page.rows.is_empty() && !page.ended {
            let rows = self.snapshot.events(self.partition, page.after, EVENTS).await?;
            page.add(rows, EVENTS, event_position);
        }
        Ok(page.rows.pop_front_if(|row| event_position(row) <= until))
    }

    /// The next dead letter, if it is not above this position.
    pub(super) async fn letter(
        &mut self,
        until: Position,
    ) -> Result<Option<dead_letter::Model>, DbErr> {
        let page = &mut self.letters;
        if page.rows.is_empty() && !page.ended {
            let rows = self.snapshot.letters(self.partition, page.after, LETTERS).await?;
            page.add(rows, LETTERS, letter_position);
        }
        Ok(page.rows.pop_front_if(|row| letter_position(row) <= until))
    }
}
