//! `jobs`: the state of each job. One row a job, written only by the owner of its partition.

use sea_orm::Iterable;
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a job stands.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    EnumIter,
    DeriveActiveEnum,
    Deserialize,
    Serialize,
    ToSchema,
)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Entered when the job is created, or by a new run; left by a callback of the workflow, or by
    /// silence. A crash of a worker leaves it as it is.
    #[default]
    Queued,
    /// Entered when the workflow has begun; left by its success, its failure or its silence.
    Provisioning,
    /// The workflow succeeded. Final within a run; a new run leaves it.
    Running,
    /// The workflow failed, or fell silent (`failure` says which). Final within a run if it was
    /// reported; any sign of life takes a presumed failure back.
    Failed,
}

impl Status {
    /// All of them, in the order of a job's life.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::iter()
    }

    /// Whether the job has finished, as people see it: it is `running` or `failed`, reported or
    /// presumed. Clients that wait for a job wait for this. A new run, or a sign of life after a
    /// presumed failure, starts it again. The rules use [`Model::is_final`].
    #[must_use]
    pub fn is_finished(self) -> bool {
        match self {
            Self::Queued | Self::Provisioning => false,
            Self::Running | Self::Failed => true,
        }
    }

    /// Its name in the database, the API and the console.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::all().find(|status| status.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::all().map(Self::as_str).collect();
            format!("{text:?} is not one of {}", all.join(", "))
        })
    }
}

/// How Ackline knows of a failure.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, ToSchema,
)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// The workflow said so.
    Reported,
    /// The workflow fell silent.
    Presumed,
}

/// One job. Times come from the stream, in microseconds.
#[sea_orm::model]
#[derive(Debug, Clone, Default, PartialEq, Eq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "jobs")]
pub struct Model {
    /// The sender's name of the job.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// The current run, a number in decimal.
    #[sea_orm(column_type = "Text", nullable)]
    pub workflow_run_id: Option<String>,
    /// The current run's attempt, from 1.
    pub run_attempt: Option<i32>,
    /// How many runs the job has known.
    pub run_count: i32,
    /// Why it failed.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// The step that failed.
    #[sea_orm(column_type = "Text", nullable)]
    pub failed_step: Option<String>,
    /// How the failure is known; set only when `status` is `failed`.
    pub failure: Option<Failure>,
    /// Who provisions.
    #[sea_orm(column_type = "Text", nullable)]
    pub agent_id: Option<String>,
    /// Where it is provisioned.
    #[sea_orm(column_type = "Text", nullable)]
    pub region: Option<String>,
    /// How many seconds the job may be silent; none for the worker's own timeout.
    pub heartbeat_timeout_s: Option<i32>,
    /// When silence makes it presumed failed; only while it is `provisioning` under a timeout of its
    /// own.
    pub presume_at: Option<DateTimeUtc>,
    /// Heartbeats of the current run.
    pub heartbeat_count: i32,
    /// When the current run's last heartbeat was stored.
    pub last_heartbeat_at: Option<DateTimeUtc>,
    /// The `sent_at` of that heartbeat, never later than when it was stored.
    pub last_heartbeat_sent_at: Option<DateTimeUtc>,
    /// When the job was queued.
    pub queued_at: Option<DateTimeUtc>,
    /// When the current run began.
    pub started_at: Option<DateTimeUtc>,
    /// When the current run succeeded or failed.
    pub finished_at: Option<DateTimeUtc>,
    /// When the job was first heard of.
    pub created_at: DateTimeUtc,
    /// When the row last changed: while the job is not finished, its last sign of life.
    pub updated_at: DateTimeUtc,
    /// The partition that the job belongs to.
    pub partition: i32,
    /// The stream sequence of the first callback.
    pub first_seq: i64,
    /// Its index in the bundle.
    pub first_idx: i32,
    /// The stream sequence of the last sign of life.
    pub last_seq: i64,
    /// Its index in the bundle.
    pub last_idx: i32,
}

impl Model {
    /// A job that is queued, and of which nothing else is known than when and where it was first
    /// heard of.
    #[must_use]
    pub fn queued(id: String, created_at: DateTimeUtc, seq: i64, idx: i32) -> Self {
        Self {
            id,
            created_at,
            updated_at: created_at,
            first_seq: seq,
            first_idx: idx,
            last_seq: seq,
            last_idx: idx,
            ..Self::default()
        }
    }

    /// Whether the run is over, as the rules see it: only another run can continue. A presumed
    /// failure is not final, because any sign of life takes it back. See [`Status::is_finished`].
    #[must_use]
    pub fn is_final(&self) -> bool {
        match (self.status, self.failure) {
            (Status::Queued | Status::Provisioning, _)
            | (Status::Failed, Some(Failure::Presumed) | None) => false,
            (Status::Running, _) | (Status::Failed, Some(Failure::Reported)) => true,
        }
    }
}

impl ActiveModelBehavior for ActiveModel {}
