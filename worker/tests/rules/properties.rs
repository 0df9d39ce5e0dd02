//! What must hold for every sequence of events.

use std::collections::{HashMap, HashSet};

use chrono::Duration;
use proptest::prelude::*;
use shared::callback::Callback;
use worker::entity::job::Model as Job;
use worker::entity::job_event::{Kind, Model as JobEvent};
use worker::rules::batch::{Known, fold};
use worker::rules::event::{Body, Content, Event, Incoming, Position};
use worker::rules::known_refusals::KnownRefusals;
use worker::rules::transition::{apply, kind};

use crate::events::*;

/// What the database would hold after some batches.
#[derive(Debug, Default, PartialEq)]
struct Rows {
    jobs: HashMap<String, Job>,
    events: Vec<JobEvent>,
}

impl Rows {
    /// Loads, folds and writes one batch, as `apply` does with the database.
    fn batch(&mut self, events: &[Event]) {
        let mut seen: HashMap<(String, String), HashSet<Kind>> = HashMap::new();
        for row in &self.events {
            if let Some(event_id) = &row.event_id {
                let key = (row.job_id.clone(), event_id.clone());
                seen.entry(key).or_default().insert(row.kind);
            }
        }
        let known = Known { jobs: self.jobs.clone(), seen, held: HashSet::new() };
        let incoming: Vec<Incoming> = events
            .iter()
            .map(|event| Incoming {
                partition: 0,
                position: event.position,
                at: event.at,
                subject: "".into(),
                speaker: None,
                run: None,
                payload: Default::default(),
                refusals: 0,
                redriven: None,
                trace: None,
                content: Content::Event(event.clone()),
            })
            .collect();
        let plan = fold(known, &incoming, &KnownRefusals::default(), 0, 0);
        self.jobs.extend(plan.jobs.into_iter().map(|job| (job.id.clone(), job)));
        self.events.extend(plan.events);
    }

    fn of(events: &[Event]) -> Self {
        let mut rows = Self::default();
        rows.batch(events);
        rows
    }
}

/// What a generator says of one event; the rest follows from its place in the sequence.
#[derive(Debug, Clone)]
struct Said {
    job: u8,
    what: u8,
    run: i64,
    attempt: i32,
    delay_s: i64,
    /// Repeats an earlier event instead, as a retry or a replay does.
    repeats: Option<prop::sample::Index>,
}

fn said() -> impl Strategy<Value = Said> {
    (
        0..2_u8,
        0..12_u8,
        1..4_i64,
        1..3_i32,
        0..4_i64,
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
        .prop_map(|(job, what, run, attempt, delay_s, repeats)| Said {
            job,
            what,
            run,
            attempt,
            delay_s,
            repeats,
        })
}

/// Which form of sender speaks.
#[derive(Debug, Clone, Copy)]
enum Sender {
    /// Names event, run, attempt and time in every callback.
    Current,
    /// Names nothing.
    Older,
}

fn spoken(said: &Said, sender: Sender, seq: i64) -> Callback {
    let base = match said.what {
        0 => queued(),
        1 | 2 => provisioning(),
        3 | 4 => running(),
        5 | 6 => failed(),
        _ => heartbeat(),
    };
    // Some name a timeout of the job's own.
    let heartbeat_timeout_s = (said.delay_s == 3).then_some(said.attempt * 100);
    let base = Callback { job_id: format!("job-{}", said.job), heartbeat_timeout_s, ..base };
    match sender {
        Sender::Older => base,
        Sender::Current => Callback {
            event_id: Some(format!("event-{seq}")),
            sent_at: Some(at(seq - said.delay_s)),
            ..of_run(base, said.run, Some(said.attempt))
        },
    }
}

/// A sequence with re-runs, repetitions and presumed losses. Losses name the job's last sign of
/// life at that place, or an older one, as late sweeps do.
fn sequence(said: &[Said], sender: Sender) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut rows = Rows::default();
    for (index, said) in said.iter().enumerate() {
        let seq = index as i64 + 1;
        let body = match &said.repeats {
            Some(earlier) if !events.is_empty() => earlier.get(&events).body.clone(),
            _ if said.what == 11 => {
                let job_id = format!("job-{}", said.job);
                let witness = rows.jobs.get(&job_id).map_or(Position { seq: 0, idx: 0 }, |job| {
                    Position { seq: job.last_seq - said.delay_s / 3, idx: job.last_idx }
                });
                Body::Lost { job_id, witness }
            }
            _ => Body::Callback(spoken(said, sender, seq)),
        };
        let event = Event { position: Position { seq, idx: 0 }, at: at(seq), body };
        rows.batch(std::slice::from_ref(&event));
        events.push(event);
    }
    events
}

/// The events with a copy of the one at `from` inserted behind the one at `to`. The positions of
/// the others stay, so that rows can be compared.
fn with_duplicate(events: &[Event], from: usize, to: usize) -> Vec<Event> {
    let mut copy = events[from].clone();
    copy.position = Position { idx: 1, ..events[to].position };
    copy.at = events[to].at + Duration::microseconds(1);
    let mut longer = events.to_vec();
    longer.insert(to + 1, copy);
    longer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn folding_is_deterministic_and_times_never_go_back(
        said in prop::collection::vec(said(), 1..40),
        older in any::<bool>(),
    ) {
        let sender = if older { Sender::Older } else { Sender::Current };
        let events = sequence(&said, sender);
        prop_assert_eq!(Rows::of(&events), Rows::of(&events));
        let mut job: HashMap<String, Job> = HashMap::new();
        for event in &events {
            let before = job.remove(event.job_id());
            let outcome = apply(before.clone(), event, false);
            if let (Some(before), Some(after)) = (&before, &outcome.job) {
                prop_assert!(after.updated_at >= before.updated_at);
                prop_assert_eq!(outcome.changed, before != after);
                prop_assert_eq!(after.failure.is_some(), after.status == worker::entity::job::Status::Failed);
                let own = after.heartbeat_timeout_s.filter(|_| after.status == worker::entity::job::Status::Provisioning);
                let until = own.map(|timeout_s| after.updated_at + Duration::seconds(timeout_s.into()));
                prop_assert_eq!(after.presume_at, until);
            }
            if let Some(after) = outcome.job {
                job.insert(after.id.clone(), after);
            }
        }
    }

    #[test]
    fn splitting_into_batches_differently_changes_nothing(
        said in prop::collection::vec(said(), 1..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        older in any::<bool>(),
    ) {
        let sender = if older { Sender::Older } else { Sender::Current };
        let events = sequence(&said, sender);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(events.len())).collect();
        ends.push(events.len());
        ends.sort_unstable();
        let mut rows = Rows::default();
        let mut start = 0;
        for end in ends {
            rows.batch(&events[start..end]);
            start = end;
        }
        prop_assert_eq!(rows, Rows::of(&events));
    }

    #[test]
    fn a_duplicate_of_an_identified_event_changes_no_row(
        said in prop::collection::vec(said(), 1..30),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let events = sequence(&said, Sender::Current);
        let from = from.index(events.len());
        let to = from + to.index(events.len() - from);
        prop_assume!(matches!(events[from].body, Body::Callback(_)));
        let longer = with_duplicate(&events, from, to);
        prop_assert_eq!(Rows::of(&longer).jobs, Rows::of(&events).jobs);
    }

    #[test]
    fn a_stale_run_never_changes_anything(
        said in prop::collection::vec(said(), 1..30),
        stale in said(),
    ) {
        let events = sequence(&said, Sender::Current);
        let rows = Rows::of(&events);
        for job in rows.jobs.values() {
            let Some(current) = job.workflow_run_id.as_ref().and_then(|id| id.parse::<i64>().ok()) else {
                continue;
            };
            let callback = of_run(spoken(&stale, Sender::Current, 100), current - 1, Some(stale.attempt));
            let callback = Callback { job_id: job.id.clone(), ..callback };
            let outcome = apply(Some(job.clone()), &event(100, callback), false);
            prop_assert_eq!(outcome.job.as_ref(), Some(job));
        }
    }

    /// The older form names no event, so the table alone must make a repetition harmless: it does
    /// within one run, but for a presumed failure that it revives, and a reported one that a
    /// repeated `provisioning` reopens. A heartbeat without `sent_at` counts again.
    #[test]
    fn a_duplicate_of_an_unnamed_event_is_harmless_within_a_run_but_for_two_cases(
        said in prop::collection::vec(said(), 1..30),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let events = sequence(&said, Sender::Older);
        let from = from.index(events.len());
        let to = from + to.index(events.len() - from);
        let Body::Callback(repeated) = &events[from].body else { return Ok(()) };
        let before = Rows::of(&events[..=to]).jobs.remove(&repeated.job_id).unwrap();
        let longer = with_duplicate(&events[..=to], from, to);
        let after = Rows::of(&longer).jobs.remove(&repeated.job_id).unwrap();

        use worker::entity::job::{Failure, Status};
        let reopened = {
            let since: Vec<JobEvent> = Rows::of(&events[..=to]).events;
            since.iter().any(|row| row.job_id == repeated.job_id
                && row.seq > events[from].position.seq
                && row.reason.as_deref() == Some("re-run"))
        };
        let repeated = kind(&events[from]);
        let revives = before.failure == Some(Failure::Presumed);
        let reopens = before.failure == Some(Failure::Reported) && repeated == Kind::Provisioning;
        if revives || reopens {
            prop_assert!(after.failure.is_none() || after.failure == Some(Failure::Reported)
                || repeated == Kind::Queued);
        } else if repeated == Kind::Heartbeat {
            prop_assert_eq!(after.status, before.status);
        } else if !reopened {
            // A failure that was reopened is a new run in all but name, which this form can't say.
            prop_assert_eq!(after, before);
        } else {
            prop_assert!(before.status != Status::Running || after.status == Status::Running);
        }
    }
}
