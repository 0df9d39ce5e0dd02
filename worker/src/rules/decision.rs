//! What was decided about an entry of the stream: its effect, and why, where that needs saying. The
//! words are those of the metrics' labels, the log, and the spans.

use std::fmt;

use sea_orm::EnumIter;

use super::event::Position;
use crate::entity::job_event;

/// What was decided about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where it stands.
    pub position: Position,
    /// What became of it.
    pub effect: Effect,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
}

/// What became of an entry. `job_events` records those of [`job_event::Effect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter)]
pub enum Effect {
    /// It changed the job.
    Applied,
    /// The job already stood there.
    Unchanged,
    /// It was late, repeated or from another run.
    Ignored,
    /// It made a silent job presumed failed.
    Presumed,
    /// It took a presumed failure back.
    Revived,
    /// It waits behind a dead letter of its job.
    Held,
    /// It became a dead letter.
    Dead,
}

impl Effect {
    /// The word that stands for it everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Ignored => "ignored",
            Self::Presumed => "presumed",
            Self::Revived => "revived",
            Self::Held => "held",
            Self::Dead => "dead",
        }
    }

    /// Whether people look for it in the log: it is logged by default, and the rest at `debug`.
    #[must_use]
    pub fn is_noted(self) -> bool {
        match self {
            Self::Presumed | Self::Revived | Self::Held | Self::Dead => true,
            Self::Applied | Self::Unchanged | Self::Ignored => false,
        }
    }
}

impl From<job_event::Effect> for Effect {
    fn from(recorded: job_event::Effect) -> Self {
        match recorded {
            job_event::Effect::Applied => Self::Applied,
            job_event::Effect::Unchanged => Self::Unchanged,
            job_event::Effect::Ignored => Self::Ignored,
            job_event::Effect::Revived => Self::Revived,
        }
    }
}

/// Why something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Ignored: the job has had this status with this `event_id`.
    Duplicate,
    /// Ignored: nobody has heard of the job that is said to be silent.
    UnknownJob,
    /// Ignored: the run is over.
    Finished,
    /// Ignored: the job that is said to be silent was heard of since.
    AliveSince,
    /// Ignored: a later run has begun.
    StaleRun,
    /// Ignored: a heartbeat that was overtaken by a later one.
    LateHeartbeat,
    /// Ignored: an order on a dead letter that is not there.
    NoSuchDeadLetter,
    /// Applied: it began another run.
    NewRun,
    /// Applied: it names no run, and the job has known several.
    Unattributed,
    /// Applied: the run that failed goes on under the same id.
    ReRun,
    /// Applied: another status came with this `event_id` before.
    EventIdReused,
    /// Held: the job has a dead letter.
    BehindDeadLetter,
}

impl Reason {
    /// The words that stand for it everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::UnknownJob => "unknown job",
            Self::Finished => "finished",
            Self::AliveSince => "alive since",
            Self::StaleRun => "stale run",
            Self::LateHeartbeat => "not later than the last heartbeat",
            Self::NoSuchDeadLetter => "no such dead letter",
            Self::NewRun => "new run",
            Self::Unattributed => "unattributed",
            Self::ReRun => "re-run",
            Self::EventIdReused => "event_id reused",
            Self::BehindDeadLetter => "an earlier callback of the job is a dead letter",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
