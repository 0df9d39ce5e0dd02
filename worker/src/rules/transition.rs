//! What an event does to a job. Pure: no I/O, no clock, no randomness, so that folding the same
//! stream twice gives the same rows.

use std::cmp::Ordering;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use shared::callback::Kind::{Heartbeat, Status as Says};
use shared::callback::{Callback, Status as Said};

use super::decision::Reason;
use super::event::{Body, Event, Position};
use crate::entity::job::{Failure, Model as Job, Status};
use crate::entity::job_event::{Effect, Kind};

/// The version of these rules, stored with every checkpoint. Rows that another version wrote need
/// not equal a fold by this one.
pub const RULES_VERSION: i32 = 2;

/// The outcome of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The job afterwards; none if the event concerns an unknown job.
    pub job: Option<Job>,
    /// Whether the row has changed.
    pub changed: bool,
    /// The effect.
    pub effect: Effect,
    /// Why, if that needs saying.
    pub reason: Option<Reason>,
    /// The status before and after.
    pub from: Option<Status>,
    /// The status after.
    pub to: Option<Status>,
}

impl Outcome {
    fn ignored(job: Option<Job>, reason: Reason) -> Self {
        let status = job.as_ref().map(|job| job.status);
        Self {
            job,
            changed: false,
            effect: Effect::Ignored,
            reason: Some(reason),
            from: status,
            to: status,
        }
    }

    /// Whether the event leaves a row in `job_events`: every status event does, a heartbeat only
    /// when it changed the status.
    #[must_use]
    pub fn leaves_row(&self, kind: Kind) -> bool {
        kind != Kind::Heartbeat || self.from != self.to
    }
}

/// The kind of an event, as `job_events` names it.
#[must_use]
pub fn kind(event: &Event) -> Kind {
    match &event.body {
        Body::Lost { .. } => Kind::Lost,
        Body::Callback(callback) => match callback.kind {
            Heartbeat => Kind::Heartbeat,
            Says(Said::Queued) => Kind::Queued,
            Says(Said::Provisioning) => Kind::Provisioning,
            Says(Said::Running) => Kind::Running,
            Says(Said::Failed) => Kind::Failed,
        },
    }
}

/// Applies an event to its job. `duplicate` says that the job already has a status event with
/// this `event_id` and status.
#[must_use]
pub fn apply(job: Option<Job>, event: &Event, duplicate: bool) -> Outcome {
    if duplicate {
        return Outcome::ignored(job, Reason::Duplicate);
    }
    match (&event.body, job) {
        (Body::Lost { witness, .. }, job) => lose(job, event, *witness),
        (Body::Callback(callback), None) => create(event, callback),
        (Body::Callback(callback), Some(job)) => hear(job, event, callback),
    }
}

/// A silence that the partition's owner reported.
fn lose(job: Option<Job>, event: &Event, witness: Position) -> Outcome {
    let Some(mut job) = job else { return Outcome::ignored(None, Reason::UnknownJob) };
    let from = job.status;
    let is_witness = witness == Position { seq: job.last_seq, idx: job.last_idx };
    if job.is_final() {
        return Outcome::ignored(Some(job), Reason::Finished);
    }
    let since = match job.status {
        // The presumed failure that would result.
        Status::Running | Status::Failed => {
            return Outcome {
                job: Some(job),
                changed: false,
                effect: Effect::Unchanged,
                reason: None,
                from: Some(from),
                to: Some(from),
            };
        }
        Status::Queued | Status::Provisioning if !is_witness => {
            return Outcome::ignored(Some(job), Reason::AliveSince);
        }
        Status::Queued => format!("still queued; nothing heard since {}", text(job.updated_at)),
        Status::Provisioning => {
            let last = job.last_heartbeat_at.unwrap_or(job.updated_at);
            format!("no heartbeat since {}", text(last))
        }
    };
    let now = event.at.max(job.updated_at);
    job.status = Status::Failed;
    job.failure = Some(Failure::Presumed);
    job.error = Some(since);
    job.failed_step = None;
    job.finished_at = Some(now);
    job.updated_at = now;
    job.presume_at = None;
    Outcome {
        job: Some(job),
        changed: true,
        effect: Effect::Applied,
        reason: None,
        from: Some(from),
        to: Some(Status::Failed),
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The first callback of a job creates it in the status that it reports.
fn create(event: &Event, callback: &Callback) -> Outcome {
    let run = run_id(callback);
    let Position { seq, idx } = event.position;
    let mut job = Job {
        workflow_run_id: run.map(|id| id.to_string()),
        run_attempt: run.and(callback.run_attempt),
        run_count: i32::from(run.is_some()),
        ..Job::queued(callback.job_id.clone(), event.at, seq, idx)
    };
    let now = event.at;
    match callback.kind {
        Says(Said::Queued) => {
            fill(&mut job, callback, now);
        }
        Heartbeat => {
            enter(&mut job, Status::Provisioning, callback, now);
            beat(&mut job, event, callback, now);
        }
        Says(Said::Provisioning) => enter(&mut job, Status::Provisioning, callback, now),
        Says(Said::Running) => enter(&mut job, Status::Running, callback, now),
        Says(Said::Failed) => enter(&mut job, Status::Failed, callback, now),
    }
    job.presume_at = presume_at(&job);
    let to = Some(job.status);
    Outcome { job: Some(job), changed: true, effect: Effect::Applied, reason: None, from: None, to }
}

/// The run of a callback, relative to its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Current,
    /// It names no run, and the job has known several.
    Unattributed,
    /// The job's run, or its attempt, was not known until now.
    Adopt,
    Stale,
    New,
}

fn run_id(callback: &Callback) -> Option<i64> {
    callback.workflow_run_id.as_deref()?.parse().ok()
}

fn classify(job: &Job, callback: &Callback) -> Run {
    let Some(named) = run_id(callback) else {
        return if job.run_count > 1 { Run::Unattributed } else { Run::Current };
    };
    let current = job.workflow_run_id.as_deref().and_then(|id| id.parse::<i64>().ok());
    let order = match current {
        None => None,
        Some(current) => match (named.cmp(&current), callback.run_attempt, job.run_attempt) {
            (Ordering::Equal, None, _) => Some(Ordering::Equal),
            (Ordering::Equal, Some(_), None) => None,
            (Ordering::Equal, Some(named), Some(current)) => Some(named.cmp(&current)),
            (order, ..) => Some(order),
        },
    };
    match order {
        Some(Ordering::Less) => Run::Stale,
        Some(Ordering::Equal) => Run::Current,
        Some(Ordering::Greater) => Run::New,
        None if job.is_final() && callback.kind == Says(Said::Provisioning) => Run::New,
        None => Run::Adopt,
    }
}

/// A callback of a known job.
fn hear(mut job: Job, event: &Event, callback: &Callback) -> Outcome {
    let before = job.clone();
    let run = classify(&job, callback);
    // One clock for all of a job's times: none ever goes backwards.
    let now = event.at.max(job.updated_at);
    match run {
        Run::Stale => return Outcome::ignored(Some(before), Reason::StaleRun),
        Run::New => begin_run(&mut job, callback),
        Run::Adopt => {
            job.workflow_run_id = run_id(callback).map(|id| id.to_string());
            job.run_attempt = callback.run_attempt;
            job.run_count = job.run_count.max(1);
        }
        Run::Current | Run::Unattributed => {}
    }
    let (effect, mut reason) = match step(&mut job, event, callback, now) {
        Ok(done) => done,
        Err(reason) => return Outcome::ignored(Some(before), reason),
    };
    match run {
        Run::New => reason = reason.or(Some(Reason::NewRun)),
        Run::Unattributed => reason = Some(Reason::Unattributed),
        Run::Current | Run::Adopt | Run::Stale => {}
    }
    let changed = job != before;
    let effect = if changed && effect == Effect::Unchanged { Effect::Applied } else { effect };
    if changed {
        job.updated_at = now;
        job.last_seq = event.position.seq;
        job.last_idx = event.position.idx;
        job.presume_at = presume_at(&job);
    }
    let (from, to) = (Some(before.status), Some(job.status));
    Outcome { job: Some(job), changed, effect, reason, from, to }
}

/// When silence would make the job presumed failed, if the job has its own timeout. Otherwise the
/// worker's timeout applies, which these rules do not know.
fn presume_at(job: &Job) -> Option<DateTime<Utc>> {
    let timeout_s = job.heartbeat_timeout_s.filter(|_| job.status == Status::Provisioning)?;
    Some(job.updated_at + TimeDelta::seconds(timeout_s.into()))
}

/// Starts a new run: the job becomes queued, and nothing of the old run is left.
fn begin_run(job: &mut Job, callback: &Callback) {
    job.status = Status::Queued;
    job.workflow_run_id = run_id(callback).map(|id| id.to_string());
    job.run_attempt = callback.run_attempt;
    // A job that finished without a run id has had one run all the same.
    job.run_count = job.run_count.max(1) + 1;
    job.error = None;
    job.failed_step = None;
    job.failure = None;
    job.heartbeat_count = 0;
    job.last_heartbeat_at = None;
    job.last_heartbeat_sent_at = None;
    job.started_at = None;
    job.finished_at = None;
}

type Step = Result<(Effect, Option<Reason>), Reason>;

/// The table: a row a state, a column a callback. `Err` is the reason why it is ignored.
fn step(job: &mut Job, event: &Event, callback: &Callback, now: DateTime<Utc>) -> Step {
    use Effect::{Applied, Revived, Unchanged};
    use Status::{Failed, Provisioning, Queued, Running};
    if callback.kind == Heartbeat && !job.is_final() && is_old_beat(job, event, callback) {
        return Err(Reason::LateHeartbeat);
    }
    let is_presumed = job.failure == Some(Failure::Presumed);
    match (job.status, callback.kind) {
        (Queued | Provisioning | Running | Failed, Says(Said::Queued)) => {
            let filled = fill(job, callback, now);
            Ok((if filled { Applied } else { Unchanged }, None))
        }
        (Queued | Provisioning, Heartbeat) => {
            beat(job, event, callback, now);
            Ok((Applied, None))
        }
        (Queued, Says(Said::Provisioning)) => {
            enter(job, Provisioning, callback, now);
            Ok((Applied, None))
        }
        (Queued | Provisioning, Says(Said::Running)) => {
            enter(job, Running, callback, now);
            Ok((Applied, None))
        }
        (Queued | Provisioning, Says(Said::Failed)) => {
            enter(job, Failed, callback, now);
            Ok((Applied, None))
        }
        (Provisioning, Says(Said::Provisioning)) | (Running, Says(Said::Running)) => {
            Ok((Unchanged, None))
        }
        (Running, Heartbeat | Says(Said::Provisioning | Said::Failed)) => Err(Reason::Finished),

        (Failed, Says(Said::Failed)) if is_presumed => {
            enter(job, Failed, callback, now);
            Ok((Applied, None))
        }
        (Failed, Says(Said::Running)) if is_presumed => {
            revive(job);
            enter(job, Running, callback, now);
            Ok((Revived, None))
        }
        (Failed, Says(Said::Provisioning)) if is_presumed => {
            revive(job);
            enter(job, Provisioning, callback, now);
            Ok((Revived, None))
        }
        (Failed, Heartbeat) if is_presumed => {
            revive(job);
            enter(job, Provisioning, callback, now);
            beat(job, event, callback, now);
            Ok((Revived, None))
        }

        (Failed, Says(Said::Failed)) => Ok((Unchanged, None)),
        (Failed, Says(Said::Provisioning)) if callback.run_attempt.is_none() => {
            revive(job);
            // The run continues under the same id, so its last `sent_at` still identifies late
            // heartbeats.
            job.heartbeat_count = 0;
            job.last_heartbeat_at = None;
            job.started_at = None;
            enter(job, Provisioning, callback, now);
            Ok((Applied, Some(Reason::ReRun)))
        }
        (Failed, Heartbeat | Says(Said::Provisioning | Said::Running)) => Err(Reason::Finished),
    }
}

/// Fills what is empty, and nothing else.
fn fill(job: &mut Job, callback: &Callback, now: DateTime<Utc>) -> bool {
    fn set<T: Clone>(slot: &mut Option<T>, value: &Option<T>) -> bool {
        let fills = slot.is_none() && value.is_some();
        if fills {
            slot.clone_from(value);
        }
        fills
    }
    [
        set(&mut job.agent_id, &callback.agent_id),
        set(&mut job.region, &callback.region),
        set(&mut job.heartbeat_timeout_s, &callback.heartbeat_timeout_s),
        set(&mut job.queued_at, &Some(now)),
    ]
    .contains(&true)
}

/// Enters a status that the workflow reports.
fn enter(job: &mut Job, status: Status, callback: &Callback, now: DateTime<Utc>) {
    job.status = status;
    job.heartbeat_timeout_s = callback.heartbeat_timeout_s.or(job.heartbeat_timeout_s);
    match status {
        Status::Queued | Status::Provisioning | Status::Running => {
            job.started_at = job.started_at.or(Some(now));
        }
        Status::Failed => {
            job.failure = Some(Failure::Reported);
            job.error.clone_from(&callback.error);
            job.failed_step.clone_from(&callback.failed_step);
        }
    }
    if status.is_finished() {
        job.finished_at = Some(now);
    }
}

/// Forgets a failure.
fn revive(job: &mut Job) {
    job.error = None;
    job.failed_step = None;
    job.failure = None;
    job.finished_at = None;
}

/// A `sent_at` ahead of the stream's clock counts as the stream's time.
fn sent_at(event: &Event, callback: &Callback) -> Option<DateTime<Utc>> {
    callback.sent_at.map(|sent_at| sent_at.min(event.at))
}

fn is_old_beat(job: &Job, event: &Event, callback: &Callback) -> bool {
    matches!(
        (sent_at(event, callback), job.last_heartbeat_sent_at),
        (Some(sent_at), Some(last)) if sent_at <= last
    )
}

fn beat(job: &mut Job, event: &Event, callback: &Callback, now: DateTime<Utc>) {
    job.heartbeat_count = job.heartbeat_count.saturating_add(1);
    job.last_heartbeat_at = Some(now);
    job.heartbeat_timeout_s = callback.heartbeat_timeout_s.or(job.heartbeat_timeout_s);
    job.last_heartbeat_sent_at = sent_at(event, callback).or(job.last_heartbeat_sent_at);
}
