//! Folds a partition's stream in memory and compares the result with the database's rows. Pure: the
//! stream and the rows are passed in.
//!
//! Whether a database rejects a callback is not a property of the stream. So refusals are taken as
//! given: from the existing dead letters, and from the orders about earlier ones.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::differ::{Differences, Entry};
use crate::entity::dead_letter::State;
use crate::entity::job::Model as Job;
use crate::entity::job_event::{Effect, Kind};
use crate::rules::batch::{self, Seen};
use crate::rules::event::{Action, Content, Event, Order, Position};
use crate::rules::known_refusals::KnownRefusals;
use crate::rules::transition;

/// The counts of a fold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Callbacks and the workers' own events.
    pub events: u64,
    /// How many of those are heartbeats.
    pub heartbeats: u64,
    /// Positions in `dead_letters` that wait for a decision.
    pub dead: u64,
    /// Positions that are held behind those.
    pub held: u64,
    /// Positions whose callback was discarded.
    pub discarded: u64,
    /// Heartbeats of jobs that the database does not have: late ones of pruned jobs.
    pub without_job: u64,
    /// Orders that were carried out.
    pub orders: u64,
}

impl Counts {
    /// Adds the counts of another slice or partition.
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.heartbeats += other.heartbeats;
        self.dead += other.dead;
        self.held += other.held;
        self.discarded += other.discarded;
        self.without_job += other.without_job;
        self.orders += other.orders;
    }
}

/// One partition's fold.
#[derive(Debug)]
pub(super) struct Fold {
    partition: i32,
    /// Whether the stream still holds its first message, so that no job is older.
    is_whole: bool,
    decided: KnownRefusals,
    held_before: HashSet<String>,
    /// The jobs whose beginning the stream holds. Older ones are not folded.
    jobs: HashMap<String, Job>,
    seen: Seen,
    /// The waiting positions, by job: its dead letter and what is held behind it.
    waiting: HashMap<String, Vec<Entry>>,
    /// The dead letters, with their jobs.
    dead: HashMap<Position, Option<String>>,
    undecodable: HashMap<Position, Entry>,
    counts: Counts,
    differences: Differences,
}

impl Fold {
    /// Begins with the known refusals, and with the jobs that are held behind a dead letter before
    /// the first message.
    #[must_use]
    pub(super) fn new(
        partition: i32,
        is_whole: bool,
        decided: KnownRefusals,
        held_before: HashSet<String>,
        differences: Differences,
    ) -> Self {
        Self {
            partition,
            is_whole,
            decided,
            held_before,
            jobs: HashMap::new(),
            seen: Seen::new(),
            waiting: HashMap::new(),
            dead: HashMap::new(),
            undecodable: HashMap::new(),
            counts: Counts::default(),
            differences,
        }
    }

    /// How much is held in memory, in entries of roughly a kilobyte.
    #[must_use]
    pub(super) fn size(&self) -> usize {
        self.jobs.len() + self.seen.len() + self.waiting.values().map(Vec::len).sum::<usize>()
    }

    /// Takes the next position of the stream.
    pub(super) fn take(&mut self, mut entry: Entry) {
        self.differences.letter(&entry);
        // A waiting entry is kept, but its payload is no longer needed.
        entry.incoming.payload.clear();
        match &entry.incoming.content {
            Content::Order(order) => {
                let order = order.clone();
                self.carry_out(&entry, &order);
            }
            Content::Undecodable(_) => {
                self.counts.events += 1;
                self.bury(entry, None);
            }
            Content::Event(event) => {
                self.counts.events += 1;
                let kind = transition::kind(event);
                self.counts.heartbeats += u64::from(kind == Kind::Heartbeat);
                self.try_event(entry);
            }
        }
    }

    fn try_event(&mut self, entry: Entry) {
        let Some(event) = entry.incoming.event() else { return self.bury(entry, None) };
        let job_id = event.job_id().to_owned();
        if self.waiting.contains_key(&job_id) || self.held_before.contains(&job_id) {
            return self.waiting.entry(job_id).or_default().push(entry);
        }
        if self.decided.reason(&entry.incoming).is_some() {
            return self.bury(entry, Some(job_id));
        }
        if let Some(letter) = &entry.letter {
            let what = match letter.state {
                State::Held => "is held although no dead letter holds it up",
                State::Dead | State::Discarded => "is a dead letter although it was applied",
            };
            self.differences.add(entry.incoming.position, Some(&job_id), what);
            return;
        }
        self.apply(&entry, event);
    }

    fn apply(&mut self, entry: &Entry, event: &Event) {
        let row = entry.event.as_ref();
        let job_id = event.job_id();
        let is_heartbeat = transition::kind(event) == Kind::Heartbeat;
        let known = self.jobs.remove(job_id);
        let begins = self.is_whole || row.is_some_and(|row| row.from_status.is_none());
        if known.is_none() && !begins {
            match row {
                // The stream does not hold the beginning of this job.
                Some(row) => self.differences.same_event(event, row),
                None if is_heartbeat => self.counts.without_job += 1,
                None => self.differences.add(event.position, Some(job_id), "was not applied"),
            }
            return;
        }
        let (outcome, expected) =
            batch::step(known, &mut self.seen, &entry.incoming, event, self.partition);
        match (&expected, row) {
            (Some(expected), Some(row)) => self.differences.row(event.position, expected, row),
            (Some(_), None) => {
                self.differences.add(event.position, Some(job_id), "was not applied");
            }
            (None, Some(_)) => {
                let what = "left a row in job_events although it did not change the status";
                self.differences.add(event.position, Some(job_id), what);
            }
            (None, None) => {}
        }
        if let Some(job) = outcome.job {
            self.jobs.insert(job.id.clone(), job);
        }
    }

    /// A refusal: of an undecodable entry, or of a callback whose job then waits.
    fn bury(&mut self, mut entry: Entry, job_id: Option<String>) {
        let position = entry.incoming.position;
        entry.incoming.refusals += 1;
        self.dead.insert(position, job_id.clone());
        match job_id {
            Some(job_id) => self.waiting.entry(job_id).or_default().push(entry),
            None => {
                self.undecodable.insert(position, entry);
            }
        }
    }

    /// Carries out an order as the owner of the partition did.
    fn carry_out(&mut self, asked: &Entry, order: &Order) {
        let is_here = order.partition == self.partition;
        let letter = self.dead.get(&order.target).filter(|_| is_here).cloned();
        let refusals = |fold: &Self, job_id: &Option<String>| match job_id {
            Some(job_id) => fold.waiting.get(job_id)?.first().map(|first| first.incoming.refusals),
            None => fold.undecodable.get(&order.target).map(|entry| entry.incoming.refusals),
        };
        let letter = letter.filter(|job_id| refusals(self, job_id) == Some(order.refusal));
        let position = asked.incoming.position;
        let Some(row) = &asked.event else {
            return self.differences.add(position, None, "was not carried out");
        };
        if letter.is_none() && row.outcome == Effect::Applied {
            // The letter belongs to another slice of the jobs, or was before the first message.
            return;
        }
        let record =
            batch::record(&asked.incoming, order, letter.as_ref().map(Option::as_deref), 0);
        for expected in &record.events {
            self.differences.row(position, expected, row);
        }
        let Some(job_id) = letter else { return };
        self.counts.orders += 1;
        self.dead.remove(&order.target);
        let mut entries = match &job_id {
            Some(job_id) => self.waiting.remove(job_id).unwrap_or_default(),
            None => self.undecodable.remove(&order.target).into_iter().collect(),
        };
        if order.action == Action::Discard && !entries.is_empty() {
            let entry = entries.remove(0);
            self.expect_state(&entry, State::Discarded);
        }
        for mut entry in entries {
            entry.incoming.redriven = Some(position);
            self.try_event(entry);
        }
    }

    fn expect_state(&mut self, entry: &Entry, state: State) {
        let position = entry.incoming.position;
        let job_id = entry.incoming.event().map(Event::job_id);
        let found = entry.letter.as_ref().map(|letter| (letter.state, letter.refusals));
        match found {
            Some(found) if found == (state, entry.incoming.refusals) => match state {
                State::Dead => self.counts.dead += 1,
                State::Held => self.counts.held += 1,
                State::Discarded => self.counts.discarded += 1,
            },
            None => self.differences.add(position, job_id, "is in neither table"),
            Some((found, refusals)) => {
                let what = format!(
                    "must be {state:?} after {} refusals, but is {found:?} after {refusals}",
                    entry.incoming.refusals
                );
                self.differences.add(position, job_id, &what.to_lowercase());
            }
        }
        if entry.event.is_some() {
            self.differences.add(position, job_id, "is in both tables");
        }
    }

    /// Ends the fold: what still waits must be in `dead_letters`. Returns the expected jobs, the
    /// counts, and the differences so far.
    #[must_use]
    pub(super) fn finish(mut self) -> (HashMap<String, Job>, Counts, Differences) {
        for entry in std::mem::take(&mut self.undecodable).into_values() {
            self.expect_state(&entry, State::Dead);
        }
        let dead = std::mem::take(&mut self.dead);
        for entry in std::mem::take(&mut self.waiting).into_values().flatten() {
            let is_dead = dead.contains_key(&entry.incoming.position);
            self.expect_state(&entry, if is_dead { State::Dead } else { State::Held });
        }
        (self.jobs, self.counts, self.differences)
    }
}
