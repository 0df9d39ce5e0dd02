//! `dead_letters`: what could not be applied, payload included, and what is held behind it.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a callback is here.
#[derive(
    Debug,
    Clone,
    Copy,
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
pub enum State {
    /// It could not be decoded, or the database rejects it on every attempt.
    Dead,
    /// It is sound, but an earlier callback of its job is dead.
    Held,
    /// An operator decided that it never takes effect. It stays on record.
    Discarded,
}

impl State {
    /// Those that hold up later callbacks of their job.
    pub const WAITING: [Self; 2] = [Self::Dead, Self::Held];

    /// Its name in the database, the API and the console.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Held => "held",
            Self::Discarded => "discarded",
        }
    }
}

/// One callback, or one whole message that could not be decoded, at its position.
#[sea_orm::model]
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "dead_letters")]
pub struct Model {
    /// The partition.
    #[sea_orm(primary_key, auto_increment = false)]
    pub partition: i32,
    /// The stream sequence.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    /// The index in the bundle; 0 for a message that is not a bundle.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idx: i32,
    /// The job; none when it could not be decoded.
    #[sea_orm(column_type = "Text", nullable)]
    pub job_id: Option<String>,
    /// Why it is here.
    pub state: State,
    /// The error, for people.
    #[sea_orm(column_type = "Text")]
    pub reason: String,
    /// The subject on which it was published.
    #[sea_orm(column_type = "Text")]
    pub subject: String,
    /// The sender's idempotency key.
    #[sea_orm(column_type = "Text", nullable)]
    pub event_id: Option<String>,
    /// Who spoke; none where no metadata could be read.
    #[sea_orm(column_type = "Text", nullable)]
    pub speaker: Option<String>,
    /// The run that ingress knew for certain, as the bundle's metadata have it.
    #[sea_orm(column_type = "Text", nullable)]
    pub run: Option<String>,
    /// The verbatim body of the callback, or of the whole message.
    #[sea_orm(column_type = "VarBinary(StringLen::None)")]
    pub payload: Vec<u8>,
    /// When the stream stored it.
    pub received_at: DateTimeUtc,
    /// How often it was rejected; 0 for a held one, which was never tried.
    pub refusals: i32,
}

impl ActiveModelBehavior for ActiveModel {}
