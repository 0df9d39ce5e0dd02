//! Why a partition stops. A person must look: going on would skip or repeat something.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use sea_orm::{EnumIter, Iterable};

/// How a stream differs from what was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// It was created at another time.
    Recreated {
        /// When it was.
        created_at: DateTime<Utc>,
    },
    /// It ends below the checkpoint.
    LostTail {
        /// Its last sequence.
        last_seq: u64,
        /// The checkpoint.
        applied_seq: u64,
    },
    /// It begins above the message that comes next.
    Purged {
        /// Its first sequence.
        first_seq: u64,
        /// The checkpoint.
        applied_seq: u64,
    },
    /// It lacks a message in its midst.
    MessageGone {
        /// The sequence of that message.
        seq: u64,
    },
    /// It holds another message at the checkpoint.
    OtherMessage {
        /// The checkpoint.
        seq: u64,
    },
}

impl Mismatch {
    /// Its code.
    #[must_use]
    pub fn code(self) -> StopCode {
        match self {
            Self::Recreated { .. } => StopCode::Recreated,
            Self::LostTail { .. } => StopCode::LostTail,
            Self::Purged { .. } => StopCode::Purged,
            Self::MessageGone { .. } => StopCode::MessageGone,
            Self::OtherMessage { .. } => StopCode::OtherMessage,
        }
    }

    /// Whether a node of a cluster that was frozen, and still takes itself for the leader, may
    /// describe the stream like this. Only what lasts longer than that can is believed then.
    #[must_use]
    pub fn may_pass(self, replicas: usize) -> bool {
        match self {
            Self::Recreated { .. } | Self::LostTail { .. } | Self::Purged { .. } => replicas > 1,
            Self::MessageGone { .. } | Self::OtherMessage { .. } => false,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code())?;
        match self {
            Self::Recreated { created_at } => write!(
                f,
                "the stream, created at {created_at}, is not the one that was applied: it was \
                 recreated"
            ),
            Self::LostTail { last_seq, applied_seq } => write!(
                f,
                "the stream ends at {last_seq}, but {applied_seq} was applied: it lost its tail"
            ),
            Self::Purged { first_seq, applied_seq } => write!(
                f,
                "the stream begins at {first_seq}, but only {applied_seq} is applied: messages \
                 were removed that the checkpoint needs"
            ),
            Self::MessageGone { seq } => write!(f, "the message {seq} is gone from the stream"),
            Self::OtherMessage { seq } => write!(
                f,
                "the message {seq} is not the one that was applied: the stream was recreated or \
                 restored from another backup"
            ),
        }
    }
}

/// Why a partition is stopped. Its text begins with its [`StopCode`]; `partitions.stopped_reason`
/// holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The stream is not the one that was applied, or lost something.
    Stream(Mismatch),
    /// More dead letters follow each other than a sound deployment has.
    DeadLetters {
        /// The checkpoint.
        applied_seq: i64,
    },
    /// The database has failed in the same way for long, and no callback can be blamed.
    Database {
        /// The checkpoint.
        applied_seq: i64,
        /// What it says.
        error: String,
    },
}

impl StopReason {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> StopCode {
        match self {
            Self::Stream(mismatch) => mismatch.code(),
            Self::DeadLetters { .. } => StopCode::DeadLetters,
            Self::Database { .. } => StopCode::Database,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(mismatch) => mismatch.fmt(f),
            Self::DeadLetters { applied_seq } => write!(
                f,
                "{}: too many dead letters in a row, after {applied_seq}: a broken deployment \
                 rather than broken callbacks",
                self.code()
            ),
            Self::Database { applied_seq, error } => write!(
                f,
                "{}: the database fails in the same way again and again, after {applied_seq}: {error}",
                self.code()
            ),
        }
    }
}

/// The code of a stop reason; docs/ERRORS.md has a paragraph on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter)]
pub enum StopCode {
    /// [`Mismatch::Recreated`].
    Recreated,
    /// [`Mismatch::LostTail`].
    LostTail,
    /// [`Mismatch::Purged`].
    Purged,
    /// [`Mismatch::MessageGone`].
    MessageGone,
    /// [`Mismatch::OtherMessage`].
    OtherMessage,
    /// [`StopReason::DeadLetters`].
    DeadLetters,
    /// [`StopReason::Database`].
    Database,
}

impl StopCode {
    /// The code as it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recreated => "ACK-101",
            Self::LostTail => "ACK-102",
            Self::Purged => "ACK-103",
            Self::MessageGone => "ACK-104",
            Self::OtherMessage => "ACK-105",
            Self::DeadLetters => "ACK-106",
            Self::Database => "ACK-107",
        }
    }

    /// Whether the stream is the cause. Any other stop is over with the first commit, and only then.
    #[must_use]
    pub fn is_of_stream(self) -> bool {
        !matches!(self, Self::DeadLetters | Self::Database)
    }
}

impl fmt::Display for StopCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the code of a reason as `partitions.stopped_reason` holds it. Reasons of versions before
/// the codes have none.
impl FromStr for StopCode {
    type Err = ();

    fn from_str(reason: &str) -> Result<Self, Self::Err> {
        let code = reason.split(':').next().unwrap_or_default();
        Self::iter().find(|known| known.as_str() == code).ok_or(())
    }
}
