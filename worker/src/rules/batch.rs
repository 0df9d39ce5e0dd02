//! Folds a batch of events over the jobs that they concern. Pure: `store` has loaded what it needs,
//! and writes what it decides.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::decision::{Decision, Effect, Reason};
use super::event::{Body, Content, Event, Incoming, Order, Position};
use super::known_refusals::KnownRefusals;
use super::transition::{self, Outcome};
use crate::entity::dead_letter::{Model as DeadLetter, State};
use crate::entity::job::Model as Job;
use crate::entity::job_event::{self, Kind, Model as JobEvent};

/// The kinds that each (job, `event_id`) has been seen with.
pub type Seen = HashMap<(String, String), HashSet<Kind>>;

/// What the database knows of the jobs of a batch.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The jobs, by id.
    pub jobs: HashMap<String, Job>,
    /// The ids of its earlier status events.
    pub seen: Seen,
    /// The jobs with a dead letter, behind which their callbacks are held.
    pub held: HashSet<String>,
}

/// What a batch does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The rows that changed, in the order of their ids.
    pub jobs: Vec<Job>,
    /// The rows of `job_events`, in the order of the stream.
    pub events: Vec<JobEvent>,
    /// The dead and held entries, in the order of the stream.
    pub dead_letters: Vec<DeadLetter>,
    /// How many events had which effect.
    pub effects: BTreeMap<Effect, u64>,
    /// How many of them were ignored for which reason.
    pub ignored: BTreeMap<Reason, u64>,
    /// Every decision, in order.
    pub decisions: Vec<Decision>,
    /// Dead letters in a row at the end of the batch, and the most within it.
    pub in_row: InRow,
}

/// Counts dead letters since a callback last changed its job and left a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InRow {
    /// The count now.
    pub now: i32,
    /// The highest count so far.
    pub most: i32,
}

impl InRow {
    /// Starts from the checkpoint's count.
    #[must_use]
    pub fn from(now: i32) -> Self {
        Self { now, most: now }
    }

    fn dead(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }

    /// Continues where another count ended.
    pub fn then(&mut self, later: Self) {
        self.now = later.now;
        self.most = self.most.max(later.most);
    }
}

/// Folds events, in the order of the stream, over the known rows.
#[must_use]
pub fn fold(
    mut known: Known,
    incoming: &[Incoming],
    known_refusals: &KnownRefusals,
    partition: i32,
    in_row: i32,
) -> Plan {
    let mut plan = Plan { in_row: InRow::from(in_row), ..Plan::default() };
    let mut changed = HashSet::new();
    for incoming in incoming {
        if incoming.event().is_some_and(|event| known.held.contains(event.job_id())) {
            plan.dead_letters.push(held(incoming));
            plan.decide(incoming.position, Effect::Held, Some(Reason::BehindDeadLetter));
            continue;
        }
        let refused = known_refusals.reason(incoming);
        let event = match (&incoming.content, refused) {
            // Orders are carried out between folds, because they need more than the jobs.
            (Content::Order(_), _) => continue,
            (Content::Event(event), None) => event,
            (Content::Event(event), Some(reason)) => {
                known.held.insert(event.job_id().to_owned());
                plan.bury(incoming, reason);
                continue;
            }
            (Content::Undecodable(error), refused) => {
                plan.bury(incoming, refused.unwrap_or(error));
                continue;
            }
        };
        let job = known.jobs.remove(event.job_id());
        let (outcome, row) = step(job, &mut known.seen, incoming, event, partition);
        // Only what writes to both tables proves that callbacks can be applied: a heartbeat has no
        // row of its own.
        if outcome.changed && row.is_some() {
            plan.in_row.now = 0;
        }
        let presumes = matches!(event.body, Body::Lost { .. }) && outcome.changed;
        let effect = if presumes { Effect::Presumed } else { outcome.effect.into() };
        plan.decide(incoming.position, effect, outcome.reason);
        if let (Effect::Ignored, Some(reason)) = (effect, outcome.reason) {
            *plan.ignored.entry(reason).or_default() += 1;
        }
        plan.events.extend(row);
        if let Some(job) = outcome.job {
            if outcome.changed {
                changed.insert(job.id.clone());
            }
            known.jobs.insert(job.id.clone(), job);
        }
    }
    plan.jobs = changed.iter().filter_map(|id| known.jobs.remove(id)).collect();
    plan.jobs.sort_by(|a, b| a.id.cmp(&b.id));
    plan
}

/// Applies one event to its job, which belongs to `partition`. Returns the outcome, and the event's
/// row if it leaves one. `seen` learns the event's id.
#[must_use]
pub fn step(
    job: Option<Job>,
    seen: &mut Seen,
    incoming: &Incoming,
    event: &Event,
    partition: i32,
) -> (Outcome, Option<JobEvent>) {
    let kind = transition::kind(event);
    let (duplicate, reused) = look_up(seen, event, kind);
    let mut outcome = transition::apply(job, event, duplicate);
    outcome.reason = outcome.reason.or(reused.then_some(Reason::EventIdReused));
    let row = outcome.leaves_row(kind).then(|| job_event(incoming, event, kind, &outcome));
    if let Some(job) = outcome.job.as_mut().filter(|_| outcome.changed) {
        job.partition = partition;
    }
    (outcome, row)
}

/// The plan for one callback that the database rejects on every attempt.
#[must_use]
pub fn bury(incoming: &Incoming, in_row: i32, reason: &str) -> Plan {
    let mut plan = Plan { in_row: InRow::from(in_row), ..Plan::default() };
    plan.bury(incoming, reason);
    plan
}

/// The record of an order; `job_id` is none if there is no such dead letter.
#[must_use]
pub fn record(asked: &Incoming, order: &Order, job_id: Option<Option<&str>>, in_row: i32) -> Plan {
    let mut plan = Plan { in_row: InRow::from(in_row), ..Plan::default() };
    let letter = format!("{:02}/{}/{}", order.partition, order.target.seq, order.target.idx);
    let outcome = match job_id {
        Some(_) => job_event::Effect::Applied,
        None => job_event::Effect::Ignored,
    };
    plan.events.push(JobEvent {
        partition: asked.partition,
        seq: asked.position.seq,
        idx: asked.position.idx,
        job_id: job_id.flatten().unwrap_or_default().to_owned(),
        kind: order.action.kind(),
        from_status: None,
        to_status: None,
        outcome,
        reason: Some(match job_id {
            Some(_) => format!("dead letter {letter}"),
            None => format!("no dead letter at {letter}"),
        }),
        event_id: None,
        workflow_run_id: None,
        run_attempt: None,
        error: None,
        failed_step: None,
        outputs: None,
        phase: None,
        speaker: asked.speaker.as_deref().map(Into::into),
        redriven_seq: None,
        redriven_idx: None,
        received_at: asked.at,
    });
    plan.decide(
        asked.position,
        outcome.into(),
        job_id.is_none().then_some(Reason::NoSuchDeadLetter),
    );
    plan
}

impl Plan {
    fn bury(&mut self, incoming: &Incoming, reason: &str) {
        let refusals = incoming.refusals + 1;
        self.dead_letters.push(dead_letter(incoming, State::Dead, refusals, reason));
        self.in_row.dead();
        // The reason may quote the callback, so it stays in the database.
        self.decide(incoming.position, Effect::Dead, None);
    }

    fn decide(&mut self, position: Position, effect: Effect, reason: Option<Reason>) {
        *self.effects.entry(effect).or_default() += 1;
        self.decisions.push(Decision { position, effect, reason });
    }
}

/// Whether the job has had this event id with this status, and whether with another one.
fn look_up(seen: &mut Seen, event: &Event, kind: Kind) -> (bool, bool) {
    let Body::Callback(callback) = &event.body else { return (false, false) };
    let Some(event_id) = callback.event_id.as_ref().filter(|_| kind != Kind::Heartbeat) else {
        return (false, false);
    };
    let kinds = seen.entry((callback.job_id.clone(), event_id.clone())).or_default();
    let reused = !kinds.is_empty();
    let duplicate = !kinds.insert(kind);
    (duplicate, reused)
}

fn job_event(incoming: &Incoming, event: &Event, kind: Kind, outcome: &Outcome) -> JobEvent {
    let callback = match &event.body {
        Body::Callback(callback) => Some(callback),
        Body::Lost { .. } => None,
    };
    let presumed = (kind == Kind::Lost && outcome.changed)
        .then(|| outcome.job.as_ref().and_then(|job| job.error.clone()))
        .flatten();
    JobEvent {
        partition: incoming.partition,
        seq: event.position.seq,
        idx: event.position.idx,
        job_id: event.job_id().to_owned(),
        kind,
        from_status: outcome.from,
        to_status: outcome.to,
        outcome: outcome.effect,
        reason: outcome.reason.map(|reason| reason.to_string()),
        event_id: callback.and_then(|callback| callback.event_id.clone()),
        workflow_run_id: callback.and_then(|callback| callback.workflow_run_id.clone()),
        run_attempt: callback.and_then(|callback| callback.run_attempt),
        error: callback.and_then(|callback| callback.error.clone()).or(presumed),
        failed_step: callback.and_then(|callback| callback.failed_step.clone()),
        outputs: None,
        phase: None,
        speaker: incoming.speaker.as_deref().map(Into::into),
        redriven_seq: incoming.redriven.map(|order| order.seq),
        redriven_idx: incoming.redriven.map(|order| order.idx),
        received_at: event.at,
    }
}

/// The row of a callback that is held behind a dead letter of its job.
fn held(incoming: &Incoming) -> DeadLetter {
    dead_letter(incoming, State::Held, incoming.refusals, Reason::BehindDeadLetter.as_str())
}

fn dead_letter(incoming: &Incoming, state: State, refusals: i32, reason: &str) -> DeadLetter {
    let event = incoming.event();
    DeadLetter {
        partition: incoming.partition,
        seq: incoming.position.seq,
        idx: incoming.position.idx,
        job_id: event.map(|event| event.job_id().to_owned()),
        state,
        reason: reason.to_owned(),
        subject: incoming.subject.to_string(),
        event_id: event.and_then(|event| match &event.body {
            Body::Callback(callback) => callback.event_id.clone(),
            Body::Lost { .. } => None,
        }),
        speaker: incoming.speaker.as_deref().map(Into::into),
        run: incoming.run.as_ref().and_then(|run| serde_json::to_string(run).ok()),
        payload: incoming.payload.to_vec(),
        received_at: incoming.at,
        refusals,
    }
}
