//! `partitions`: who owns each partition, and how far it is applied. The database's row, not the
//! broker's acks, is the truth about progress.

use sea_orm::entity::prelude::*;
use serde::Serialize;

/// One partition.
#[sea_orm::model]
#[derive(Debug, Clone, Default, PartialEq, Eq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "partitions")]
pub struct Model {
    /// Its number.
    #[sea_orm(primary_key, auto_increment = false)]
    pub partition: i32,
    /// The generation of its stream.
    pub generation: i32,
    /// Grows by one with every acquisition; a batch of an older epoch does not commit.
    pub epoch: i64,
    /// The random id of the process that owns it.
    #[sea_orm(column_type = "Text", nullable)]
    pub owner: Option<String>,
    /// The owner of the previous epoch, whose consumer the owner deletes.
    #[sea_orm(column_type = "Text", nullable)]
    pub previous_owner: Option<String>,
    /// When the lease ends, by the database's clock. For liveness only.
    pub lease_until: Option<DateTimeUtc>,
    /// The checkpoint: the stream sequence of the last applied message; 0 for none.
    pub applied_seq: i64,
    /// That message's `Nats-Msg-Id`, which distinguishes the applied stream from a foreign one.
    #[sea_orm(column_type = "Text", nullable)]
    pub applied_msg_id: Option<String>,
    /// When the applied stream was created.
    pub stream_created_at: Option<DateTimeUtc>,
    /// The version of the transition rules that applied the last batch.
    pub rules_version: i32,
    /// The first stream sequence that this version applied; another version applied what is below.
    pub rules_from_seq: i64,
    /// Dead letters since a callback was last applied.
    pub dead_letters_in_row: i32,
    /// Why the partition is stopped; none while it is not stopped.
    #[sea_orm(column_type = "Text", nullable)]
    pub stopped_reason: Option<String>,
    /// The checkpoint that an operator set, past messages that are gone. While it equals the
    /// checkpoint, there is no message at the checkpoint that could prove the stream.
    pub accepted_seq: Option<i64>,
    /// Since when owners have been connected and up to date without a gap, by the database's clock.
    /// A job's silence counts only while somebody has listened.
    pub watched_since: Option<DateTimeUtc>,
    /// Until when its owner has listened and heard an ingress: written with every renewal, and when
    /// the partition is released.
    pub watched_until: Option<DateTimeUtc>,
    /// How many callbacks and internal events were applied, with any outcome.
    pub applied_callbacks: i64,
    /// When the checkpoint was set, by the database's clock.
    pub applied_at: Option<DateTimeUtc>,
    /// When the stream stored the message at the checkpoint.
    pub applied_received_at: Option<DateTimeUtc>,
}

impl ActiveModelBehavior for ActiveModel {}
