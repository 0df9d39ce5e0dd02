//! The differences, and where they are.

use serde::Serialize;
use serde_json::Value;

use crate::entity::dead_letter::Model as DeadLetter;
use crate::entity::job_event::Model as JobEvent;
use crate::rules::event::{Event, Incoming, Position};
use crate::rules::transition;

/// A position of the stream, with the database's rows at that position.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the stream has.
    pub incoming: Incoming,
    /// The row of `job_events`.
    pub event: Option<JobEvent>,
    /// The row of `dead_letters`.
    pub letter: Option<DeadLetter>,
}

/// One difference from the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The partition.
    pub partition: i32,
    /// The stream sequence, if it is about a position.
    pub seq: Option<i64>,
    /// The index in the bundle.
    pub idx: Option<i32>,
    /// The job, if it is about one.
    pub job_id: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {:02}", self.partition)?;
        if let (Some(seq), Some(idx)) = (self.seq, self.idx) {
            write!(f, ", position {seq}/{idx}")?;
        }
        if let Some(job_id) = &self.job_id {
            write!(f, ", job {job_id:?}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How many differences are kept in full; the others are only counted.
const KEPT: usize = 200;

/// The differences of one partition, in the order in which they were found.
#[derive(Debug)]
pub(super) struct Differences {
    partition: i32,
    /// Another version of the rules applied what is below this sequence.
    rules_from_seq: i64,
    /// The first of them.
    pub list: Vec<Difference>,
    /// How many there are.
    pub total: u64,
    /// The first rows that another version of the rules wrote and this one would write differently.
    pub other_rules: Vec<Difference>,
}

impl Differences {
    pub(super) fn new(partition: i32, rules_from_seq: i64) -> Self {
        Self { partition, rules_from_seq, list: Vec::new(), total: 0, other_rules: Vec::new() }
    }

    /// A collection without differences.
    pub(super) fn fresh(&self) -> Self {
        Self::new(self.partition, self.rules_from_seq)
    }

    pub(super) fn add(&mut self, position: Position, job_id: Option<&str>, what: &str) {
        self.push(Some(position), job_id, what);
    }

    pub(super) fn push(&mut self, position: Option<Position>, job_id: Option<&str>, what: &str) {
        self.total += 1;
        let difference = self.difference(position, job_id, what);
        keep(&mut self.list, difference);
    }

    /// A row that differs from the fold, perhaps because of other rules. `from` is the first
    /// position that went into it.
    pub(super) fn value(&mut self, from: Position, job_id: &str, what: &str) {
        if from.seq < self.rules_from_seq {
            let difference = self.difference(Some(from), Some(job_id), what);
            keep(&mut self.other_rules, difference);
        } else {
            self.add(from, Some(job_id), what);
        }
    }

    fn difference(
        &self,
        position: Option<Position>,
        job_id: Option<&str>,
        what: &str,
    ) -> Difference {
        Difference {
            partition: self.partition,
            seq: position.map(|position| position.seq),
            idx: position.map(|position| position.idx),
            job_id: job_id.map(Into::into),
            what: what.to_owned(),
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.total += other.total;
        for difference in other.list {
            keep(&mut self.list, difference);
        }
        for difference in other.other_rules {
            keep(&mut self.other_rules, difference);
        }
    }

    /// An event's row must be exactly the one that the fold gives.
    pub(super) fn row(&mut self, position: Position, expected: &JobEvent, found: &JobEvent) {
        if expected != found {
            let columns = columns(expected, found).join("; ");
            let what = format!("its row in job_events differs: {columns}");
            self.value(position, &expected.job_id, &what);
        }
    }

    /// A row must be about this event, whatever it says about the job before and after.
    pub(super) fn same_event(&mut self, event: &Event, row: &JobEvent) {
        let same = row.job_id == event.job_id()
            && row.kind == transition::kind(event)
            && row.received_at == event.at;
        if !same {
            let what = "its row in job_events speaks of another event";
            self.add(event.position, Some(event.job_id()), what);
        }
    }

    /// A dead letter must hold what the stream has.
    pub(super) fn letter(&mut self, entry: &Entry) {
        let Some(letter) = &entry.letter else { return };
        let incoming = &entry.incoming;
        let job_id = incoming.event().map(Event::job_id);
        let same = letter.payload == incoming.payload
            && *letter.subject == *incoming.subject
            && letter.received_at == incoming.at
            && letter.job_id.as_deref() == job_id;
        if !same {
            self.add(incoming.position, job_id, "its row in dead_letters holds something else");
        }
    }
}

fn keep(list: &mut Vec<Difference>, difference: Difference) {
    if list.len() < KEPT {
        list.push(difference);
    }
}

/// The columns in which two rows differ, with both values.
pub(super) fn columns(expected: &impl Serialize, found: &impl Serialize) -> Vec<String> {
    let as_object = |row: Result<Value, _>| match row {
        Ok(Value::Object(object)) => object,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let expected = as_object(serde_json::to_value(expected));
    let mut found = as_object(serde_json::to_value(found));
    expected
        .into_iter()
        .filter_map(|(name, expected)| {
            let found = found.remove(&name).unwrap_or_default();
            (found != expected).then(|| format!("{name} must be {expected}, but is {found}"))
        })
        .collect()
}
