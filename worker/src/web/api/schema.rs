//! A job and a dead letter in the API. The names are those of the tables; an event is its row.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::apply::redrive::LetterId;
use crate::entity::{dead_letter, job};
use crate::store::dead_letters::Listed;
use crate::web::settings::WebSettings;

/// Where a job stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Job {
    /// The sender's name of the job.
    id: String,
    /// Where it stands.
    status: job::Status,
    /// How a failure is known.
    failure: Option<job::Failure>,
    /// Why it failed.
    error: Option<String>,
    /// The step that failed.
    failed_step: Option<String>,
    /// The current run, a number in decimal.
    workflow_run_id: Option<String>,
    /// The current run's attempt, from 1.
    run_attempt: Option<i32>,
    /// The run's page, if the worker knows where workflows run.
    run_url: Option<String>,
    /// How many runs the job has known.
    run_count: i32,
    /// Who provisions.
    agent_id: Option<String>,
    /// Where it is provisioned.
    region: Option<String>,
    /// How many seconds the job may be silent; none for the worker's own timeout.
    heartbeat_timeout_s: Option<i32>,
    /// Heartbeats of the current run.
    heartbeat_count: i32,
    /// When the last of them was stored.
    last_heartbeat_at: Option<DateTime<Utc>>,
    /// When the job was queued.
    queued_at: Option<DateTime<Utc>>,
    /// When the current run began.
    started_at: Option<DateTime<Utc>>,
    /// When the current run succeeded or failed.
    finished_at: Option<DateTime<Utc>>,
    /// When the job was first heard of.
    created_at: DateTime<Utc>,
    /// When the row last changed.
    updated_at: DateTime<Utc>,
    /// The partition that the job belongs to.
    partition: i32,
}

impl Job {
    pub(crate) fn new(job: job::Model, settings: &WebSettings) -> Self {
        Self {
            run_url: settings.run_url(job.workflow_run_id.as_deref(), job.run_attempt),
            id: job.id,
            status: job.status,
            failure: job.failure,
            error: job.error,
            failed_step: job.failed_step,
            workflow_run_id: job.workflow_run_id,
            run_attempt: job.run_attempt,
            run_count: job.run_count,
            agent_id: job.agent_id,
            region: job.region,
            heartbeat_timeout_s: job.heartbeat_timeout_s,
            heartbeat_count: job.heartbeat_count,
            last_heartbeat_at: job.last_heartbeat_at,
            queued_at: job.queued_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            created_at: job.created_at,
            updated_at: job.updated_at,
            partition: job.partition,
        }
    }
}

/// A callback that could not be applied, or is held behind one, without its payload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ListedDeadLetter {
    /// Its position as PARTITION-SEQUENCE-INDEX, as used in URLs.
    #[schema(example = "03-17-0")]
    position: String,
    /// Why it is here.
    state: dead_letter::State,
    /// The job; none when it could not be decoded.
    job_id: Option<String>,
    /// The error.
    reason: String,
    /// The subject on which it was published.
    subject: String,
    /// The sender's idempotency key.
    event_id: Option<String>,
    /// How often the database rejected it.
    refusals: i32,
    /// When the stream stored it.
    received_at: DateTime<Utc>,
    /// How many bytes the body has.
    payload_bytes: i32,
}

impl From<Listed> for ListedDeadLetter {
    fn from(letter: Listed) -> Self {
        Self {
            position: LetterId::of_listed(&letter).in_address(),
            state: letter.state,
            job_id: letter.job_id,
            reason: letter.reason,
            subject: letter.subject,
            event_id: letter.event_id,
            refusals: letter.refusals,
            received_at: letter.received_at,
            payload_bytes: letter.payload_bytes,
        }
    }
}

/// A callback that could not be applied, or is held behind one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct DeadLetter {
    /// Its position as PARTITION-SEQUENCE-INDEX, as used in URLs.
    #[schema(example = "03-17-0")]
    position: String,
    /// Why it is here.
    state: dead_letter::State,
    /// The job; none when it could not be decoded.
    job_id: Option<String>,
    /// The error.
    reason: String,
    /// The subject on which it was published.
    subject: String,
    /// The sender's idempotency key.
    event_id: Option<String>,
    /// How often the database rejected it.
    refusals: i32,
    /// When the stream stored it.
    received_at: DateTime<Utc>,
    /// The body as it was received, with invalid UTF-8 replaced.
    payload: String,
    /// Whether invalid UTF-8 was replaced.
    payload_is_damaged: bool,
}

impl From<dead_letter::Model> for DeadLetter {
    fn from(letter: dead_letter::Model) -> Self {
        let payload = String::from_utf8_lossy(&letter.payload);
        Self {
            position: LetterId::of(&letter).in_address(),
            state: letter.state,
            job_id: letter.job_id.clone(),
            reason: letter.reason.clone(),
            subject: letter.subject.clone(),
            event_id: letter.event_id.clone(),
            refusals: letter.refusals,
            received_at: letter.received_at,
            payload_is_damaged: matches!(payload, std::borrow::Cow::Owned(_)),
            payload: payload.into_owned(),
        }
    }
}
