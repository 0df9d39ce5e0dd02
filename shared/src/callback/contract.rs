//! What a callback is, and its limits.

use chrono::{DateTime, Utc};

/// The longest `job_id`, in bytes.
pub const MAX_JOB_ID_BYTES: usize = 200;
/// The longest `event_id`, in bytes.
pub const MAX_EVENT_ID_BYTES: usize = 128;
/// The longest `workflow_run_id`, `agent_id` and `region`, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// `error` is truncated to this many bytes.
pub const MAX_ERROR_BYTES: usize = 4096;
/// `failed_step` is truncated to this many bytes.
pub const MAX_FAILED_STEP_BYTES: usize = 200;
/// The longest `heartbeat_timeout_s`, in seconds: a day. The shortest is one second.
pub const MAX_HEARTBEAT_TIMEOUT_S: i32 = 24 * 60 * 60;

/// A status that a callback can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Reported by whoever creates the job, before a workflow runs.
    Queued,
    /// Reported when the workflow has begun.
    Provisioning,
    /// Reported when the machine is ready: the workflow's success.
    Running,
    /// Reported by the workflow's failure step.
    Failed,
}

impl Status {
    /// The status as it stands in a body.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Queued, Self::Provisioning, Self::Running, Self::Failed];
        all.into_iter().find(|status| status.as_str() == text)
    }
}

/// What a callback reports about its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The job is alive; nothing else changed.
    Heartbeat,
    /// The job has this status now.
    Status(Status),
}

/// One well-formed callback. Texts hold no NUL and are within their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// 1–200 bytes without control characters.
    pub job_id: String,
    /// What is reported.
    pub kind: Kind,
    /// The run that sends it, as it was sent; usually GitHub's number.
    pub workflow_run_id: Option<String>,
    /// Which attempt of that run, from 1.
    pub run_attempt: Option<i32>,
    /// Why it failed, truncated to 4 KiB.
    pub error: Option<String>,
    /// The step that failed, truncated to 200 bytes.
    pub failed_step: Option<String>,
    /// Who provisions.
    pub agent_id: Option<String>,
    /// Where it is provisioned.
    pub region: Option<String>,
    /// How many seconds the job may be silent before it is presumed failed, 1–86,400; without it
    /// the worker's own timeout applies.
    pub heartbeat_timeout_s: Option<i32>,
    /// The sender's idempotency key, 1–128 bytes.
    pub event_id: Option<String>,
    /// When the sender made the callback, by its own clock, in microseconds.
    pub sent_at: Option<DateTime<Utc>>,
}

/// Why a body is not a callback. `Display` is the `error` of the 400 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, not an object, or an object with a key that occurs twice.
    #[error("Invalid JSON")]
    Json,
    /// `job_id` is absent, null or empty.
    #[error("Missing job_id")]
    MissingJobId,
    /// Neither a `status` nor a known `type`.
    #[error("Missing status or type")]
    MissingStatus,
    /// A field whose value breaks its limits; the field's name.
    #[error("Invalid {0}")]
    Field(&'static str),
}
