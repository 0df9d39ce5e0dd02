//! `job_events`: what every status callback did. Rows are only ever added.

use sea_orm::entity::prelude::*;
use serde::Serialize;
use utoipa::ToSchema;

use super::job::Status;

/// What an event reports.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, ToSchema,
)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A status callback.
    Queued,
    /// A status callback.
    Provisioning,
    /// A status callback.
    Running,
    /// A status callback.
    Failed,
    /// A heartbeat; only those that changed the status have a row.
    Heartbeat,
    /// The worker's own event: the job fell silent.
    Lost,
    /// An operator's order: a dead letter is tried again.
    Requeue,
    /// An operator's order: a dead letter takes no effect.
    Discard,
}

impl Kind {
    /// The word that stands for it everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Heartbeat => "heartbeat",
            Self::Lost => "lost",
            Self::Requeue => "requeue",
            Self::Discard => "discard",
        }
    }
}

/// What became of an event.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, ToSchema,
)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It changed the job.
    Applied,
    /// The job already stood there.
    Unchanged,
    /// It was late, repeated or from another run; the reason says which.
    Ignored,
    /// It took a presumed failure back.
    Revived,
}

impl Effect {
    /// The word that stands for it everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Ignored => "ignored",
            Self::Revived => "revived",
        }
    }
}

/// What one callback, or one decision of a worker or an operator, did.
#[sea_orm::model]
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel, Serialize, ToSchema)]
#[schema(as = Event)]
#[sea_orm(table_name = "job_events")]
pub struct Model {
    /// The partition.
    #[sea_orm(primary_key, auto_increment = false)]
    pub partition: i32,
    /// The stream sequence.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    /// The index in the bundle.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idx: i32,
    /// The job; empty for an order that concerns none.
    #[sea_orm(column_type = "Text")]
    pub job_id: String,
    /// What it reports.
    pub kind: Kind,
    /// The job's status before; none when it created the job or concerns none.
    pub from_status: Option<Status>,
    /// The job's status after.
    pub to_status: Option<Status>,
    /// What became of it.
    pub outcome: Effect,
    /// Why, if that needs saying.
    #[sea_orm(column_type = "Text", nullable)]
    pub reason: Option<String>,
    /// The sender's idempotency key.
    #[sea_orm(column_type = "Text", nullable)]
    pub event_id: Option<String>,
    /// The run that sent it, as it was sent.
    #[sea_orm(column_type = "Text", nullable)]
    pub workflow_run_id: Option<String>,
    /// That run's attempt.
    pub run_attempt: Option<i32>,
    /// The error that it carried.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// The failed step that it carried.
    #[sea_orm(column_type = "Text", nullable)]
    pub failed_step: Option<String>,
    /// The job's outputs after it, as JSON; none if it did not change them.
    #[sea_orm(column_type = "Text", nullable)]
    pub outputs: Option<String>,
    /// The phase of the run that it told.
    #[sea_orm(column_type = "Text", nullable)]
    pub phase: Option<String>,
    /// Who spoke: the id of the key that signed the callback; an operator or a worker for what is
    /// not a callback.
    #[sea_orm(column_type = "Text", nullable)]
    pub speaker: Option<String>,
    /// The sequence of the order that redrove it, if it was a dead letter or held behind one.
    /// Readers of events have passed its own position by then.
    pub redriven_seq: Option<i64>,
    /// That order's index in its bundle.
    pub redriven_idx: Option<i32>,
    /// When the stream stored it.
    #[schema(value_type = chrono::DateTime<chrono::Utc>)]
    pub received_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
