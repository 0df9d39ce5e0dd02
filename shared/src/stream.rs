//! The stream contract: a partition is a stream, and these are its settings.
//!
//! `ackline migrate` and `ackline move` create the streams; ingress and the workers only check them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_nats::jetstream::context::{GetStreamErrorKind, StreamsError};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PeerInfo, PersistenceMode, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, ErrorCode};

use futures::TryStreamExt;

use crate::partition::{FIRST_GENERATION, Layout, MAX_PARTITIONS, Partition, generation_of};

/// How many partitions a deployment has unless it chooses otherwise: docs/PERFORMANCE.md says why.
pub const DEFAULT_PARTITIONS: u16 = 2;
/// How long the stream recognises a message id that it has seen. The server keeps each in memory,
/// and ingress retries a bundle for no longer than its publish deadline, which is at most half of
/// this.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// A leader that has heard from a majority within this time is the only one: they answer it every
/// second, and elect no other before four have passed without a word.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// The stream metadata that holds the number of partitions.
pub const PARTITIONS_KEY: &str = "ackline-partitions";

/// Why the streams can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// A stream does not exist.
    #[error("ACK-201: the stream {0} is missing: run `ackline migrate`")]
    Missing(String),
    /// A stream has other settings than Ackline relies on.
    #[error("ACK-202: the stream {stream} differs from the contract: {}: set that back", differences.join("; "))]
    Differs {
        /// The stream's name.
        stream: String,
        /// What differs, for people.
        differences: Vec<String>,
    },
    /// There are more streams than their metadata name.
    #[error(
        "ACK-203: the stream {stream} exists, but the others name only {partitions} partitions in their \
         metadata ({PARTITIONS_KEY}): set that back, and change their number with `ackline partitions resize`"
    )]
    TooMany {
        /// The first stream that is too many.
        stream: String,
        /// How many partitions there should be.
        partitions: u16,
    },
    /// Nothing can be stored in a stream now.
    #[error(
        "ACK-204: the stream {0} has no leader: too few of its nodes are up, or they are electing \
         one: start those that are missing"
    )]
    NoLeader(String),
    /// All streams are closed.
    #[error(
        "ACK-207: the stream {0} is closed, and none is open in its place: `ackline move` has not \
         finished; run it again"
    )]
    Closed(String),
    /// The broker did not tell the streams' names.
    #[error("ACK-208: the broker did not name its streams: is JetStream enabled?")]
    Names(#[source] StreamsError),
    /// The broker did not answer.
    #[error("ACK-205: the broker did not describe the stream {stream}")]
    Broker {
        /// The stream's name.
        stream: String,
        /// What async-nats says.
        source: jetstream::context::GetStreamError,
    },
}

/// Whether a stream takes callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It takes what its subjects say.
    Open,
    /// It takes nothing but the mark of its end: its jobs are moved to, or from, another stream.
    Closed,
}

impl Gate {
    /// The subjects of a partition's stream, in the order in which [`differences`] compares them.
    #[must_use]
    pub fn subjects(self, partition: Partition) -> Vec<String> {
        match self {
            Self::Open => vec![
                partition.callbacks_subject(),
                partition.internal_subject(),
                partition.orders_subject(),
            ],
            Self::Closed => vec![partition.closed_subject()],
        }
    }

    /// Whether a partition's stream is open, by its settings.
    #[must_use]
    pub fn of(found: &Config, partition: Partition) -> Self {
        if found.subjects == Self::Closed.subjects(partition) { Self::Closed } else { Self::Open }
    }
}

impl ContractError {
    /// Whether it may pass by itself, so that one should check again. Otherwise an operator must do
    /// something.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoLeader(_) | Self::Broker { .. } | Self::Names(_) => true,
            Self::Missing(_) | Self::Differs { .. } | Self::TooMany { .. } | Self::Closed(_) => {
                false
            }
        }
    }
}

/// The settings of a partition's stream, which is open and begins with sequence 1.
#[must_use]
pub fn config(partition: Partition, replicas: usize, max_bytes: i64) -> Config {
    let partitions = partition.layout().partitions();
    Config {
        name: partition.stream(),
        subjects: Gate::Open.subjects(partition),
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        deny_delete: true,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        metadata: HashMap::from([(PARTITIONS_KEY.to_owned(), partitions.to_string())]),
        ..Config::default()
    }
}

/// The number of partitions that a stream's metadata names.
#[must_use]
pub fn partitions_of(config: &Config) -> Option<u16> {
    config.metadata.get(PARTITIONS_KEY)?.parse().ok().filter(|n| (1..=MAX_PARTITIONS).contains(n))
}

/// What of a stream's settings breaks the contract; replicas and `max_bytes` are the operator's, and
/// a stream may be closed.
#[must_use]
pub fn differences(found: &Config, partition: Partition) -> Vec<String> {
    let partitions = partition.layout().partitions();
    let expected = Gate::of(found, partition).subjects(partition);
    let mut differences = Vec::new();
    let mut check = |name: &str, holds: bool, must: String| {
        if !holds {
            differences.push(format!("{name} must be {must}"));
        }
    };
    let mut subjects = found.subjects.clone();
    subjects.sort();
    check("subjects", subjects == expected, expected.join(", "));
    check(
        PARTITIONS_KEY,
        partitions_of(found) == Some(partitions),
        format!("{partitions} (metadata)"),
    );
    check("storage", found.storage == StorageType::File, "file".into());
    check("retention", found.retention == RetentionPolicy::Limits, "limits".into());
    check("discard", found.discard == DiscardPolicy::New, "new".into());
    check("max_bytes", found.max_bytes > 0, "set".into());
    check("max_age", found.max_age.is_zero(), "0".into());
    check("max_msgs", found.max_messages <= 0, "unlimited".into());
    check("max_msgs_per_subject", found.max_messages_per_subject <= 0, "unlimited".into());
    check("max_msg_size", found.max_message_size <= 0, "unlimited".into());
    check("deny_delete", found.deny_delete, "true".into());
    check("deny_purge", !found.deny_purge, "false".into());
    check("duplicate_window", found.duplicate_window == DUPLICATE_WINDOW, "2m".into());
    check("no_ack", !found.no_ack, "false".into());
    check("sealed", !found.sealed, "false".into());
    check("allow_rollup_hdrs", !found.allow_rollup, "false".into());
    check("allow_msg_ttl", !found.allow_message_ttl, "false".into());
    check("allow_msg_schedules", !found.allow_message_schedules, "false".into());
    check("allow_msg_counter", !found.allow_message_counter, "false".into());
    check("mirror and sources", found.mirror.is_none() && found.sources.is_none(), "unset".into());
    check("subject_transform", found.subject_transform.is_none(), "unset".into());
    check(
        "persist_mode",
        !matches!(found.persist_mode, Some(PersistenceMode::Async)),
        "default: a confirmation must follow the disk".into(),
    );
    differences
}

/// Whether a stream is described by its leader, and by one that is known to be the only one.
///
/// The nodes of a cluster that are too few to elect a leader describe what they have themselves,
/// which may be behind, and can store nothing. So does, for a while, a leader that was frozen or cut
/// off.
#[must_use]
pub fn has_leader(info: &Info) -> bool {
    let Some(cluster) = &info.cluster else { return true };
    let is_heard = |copy: &&PeerInfo| !copy.active.is_zero() && copy.active < HEARD_WITHIN;
    let heard = 1 + cluster.replicas.iter().filter(is_heard).count();
    cluster.leader.is_some() && 2 * heard > 1 + cluster.replicas.len()
}

/// Reads one partition's stream; `None` when it does not exist.
///
/// # Errors
/// The broker does not answer, or answers otherwise: nothing is known of the stream, ask again.
pub async fn find(
    jetstream: &jetstream::Context,
    partition: Partition,
) -> Result<Option<Info>, jetstream::context::GetStreamError> {
    match jetstream.get_stream(partition.stream()).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api)
                if api.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// Finds the streams that are open, and checks each of them against the contract. `known` are those
/// that were open before.
///
/// # Errors
/// [`ContractError`], of the first stream that can't be used. See [`ContractError::may_pass`].
pub async fn find_open(
    jetstream: &jetstream::Context,
    known: Option<Layout>,
) -> Result<Layout, ContractError> {
    if let Some(layout) = known {
        let info = describe(jetstream, layout.first()).await?;
        if info.is_some_and(|info| Gate::of(&info.config, layout.first()) == Gate::Open) {
            return check(jetstream, layout).await.map(|()| layout);
        }
    }
    // `ackline move` opens the first stream of a generation last, and closes it first.
    let mut closed = None;
    for generation in generations(jetstream).await?.into_iter().rev() {
        let first = Layout::new(generation, 1).first();
        let found = find_generation(jetstream, generation).await?;
        let Described { layout, gate } =
            found.ok_or_else(|| ContractError::Missing(first.stream()))?;
        match gate {
            Gate::Open => return check(jetstream, layout).await.map(|()| layout),
            Gate::Closed => closed = closed.or(Some(layout.first())),
        }
    }
    Err(match closed {
        Some(first) => ContractError::Closed(first.stream()),
        None => ContractError::Missing(Layout::new(FIRST_GENERATION, 1).first().stream()),
    })
}

/// The generations of which there is a stream.
///
/// # Errors
/// [`ContractError::Names`]: ask again.
pub async fn generations(jetstream: &jetstream::Context) -> Result<BTreeSet<u32>, ContractError> {
    let names: Vec<String> =
        jetstream.stream_names().try_collect().await.map_err(ContractError::Names)?;
    Ok(names.iter().filter_map(|name| generation_of(name)).collect())
}

/// A generation, as its first stream describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// The generation, and how many partitions its metadata name.
    pub layout: Layout,
    /// Whether its first stream is open.
    pub gate: Gate,
}

/// Reads from a generation's first stream how many partitions it has; `None` if there is no such
/// stream.
///
/// # Errors
/// [`ContractError`], of that stream.
pub async fn find_generation(
    jetstream: &jetstream::Context,
    generation: u32,
) -> Result<Option<Described>, ContractError> {
    let first = Layout::new(generation, 1).first();
    let Some(info) = describe(jetstream, first).await? else { return Ok(None) };
    let partitions = partitions_of(&info.config).ok_or_else(|| ContractError::Differs {
        stream: info.config.name.clone(),
        differences: vec![format!("its metadata must name {PARTITIONS_KEY}")],
    })?;
    let gate = Gate::of(&info.config, first);
    Ok(Some(Described { layout: Layout::new(generation, partitions), gate }))
}

/// Checks every stream of a generation against the contract. They may be closed.
///
/// # Errors
/// [`ContractError`], of the first stream that can't be used. See [`ContractError::may_pass`].
pub async fn check(jetstream: &jetstream::Context, layout: Layout) -> Result<(), ContractError> {
    for partition in layout.all() {
        let info = describe(jetstream, partition)
            .await?
            .ok_or_else(|| ContractError::Missing(partition.stream()))?;
        let differences = differences(&info.config, partition);
        if !differences.is_empty() {
            return Err(ContractError::Differs { stream: partition.stream(), differences });
        }
        if !has_leader(&info) {
            return Err(ContractError::NoLeader(partition.stream()));
        }
    }
    check_no_more(jetstream, layout).await
}

/// Checks that there is no stream beyond those that the metadata name: with a smaller number in
/// all metadata, jobs would change their partition.
///
/// # Errors
/// [`ContractError::TooMany`], which needs an operator, or [`ContractError::Broker`]: check again.
pub async fn check_no_more(
    jetstream: &jetstream::Context,
    layout: Layout,
) -> Result<(), ContractError> {
    let partitions = layout.partitions();
    let most = Layout::new(layout.generation(), MAX_PARTITIONS);
    if let Some(beyond) = most.partition(partitions)
        && let Some(info) = describe(jetstream, beyond).await?
    {
        return Err(ContractError::TooMany { stream: info.config.name, partitions });
    }
    Ok(())
}

async fn describe(
    jetstream: &jetstream::Context,
    partition: Partition,
) -> Result<Option<Info>, ContractError> {
    find(jetstream, partition)
        .await
        .map_err(|source| ContractError::Broker { stream: partition.stream(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_made_by_the_contract_keeps_it() {
        let partition = Layout::new(2, 16).partition(3).unwrap();
        let mut made = config(partition, 3, 1 << 30);
        assert_eq!(differences(&made, partition), Vec::<String>::new());
        assert_eq!(Gate::of(&made, partition), Gate::Open);
        assert_eq!(partitions_of(&made), Some(16));
        made.subjects = Gate::Closed.subjects(partition);
        assert_eq!(differences(&made, partition), Vec::<String>::new());
        assert_eq!(Gate::of(&made, partition), Gate::Closed);
    }

    #[test]
    fn a_stream_of_a_cluster_needs_a_leader() {
        let described_by = |cluster: serde_json::Value| {
            let mut info = serde_json::json!({
                "config": config(Layout::new(1, 16).first(), 3, 1 << 20),
                "created": "2026-11-23T13:40:44.690747807Z",
                "state": {
                    "messages": 0, "bytes": 0, "consumer_count": 0,
                    "first_seq": 0, "first_ts": "0001-01-01T00:00:00Z",
                    "last_seq": 0, "last_ts": "0001-01-01T00:00:00Z",
                },
            });
            if !cluster.is_null() {
                info["cluster"] = cluster;
            }
            has_leader(&serde_json::from_value(info).unwrap())
        };
        let copies = |leader: Option<&str>, seen_ms: [u64; 2]| {
            let replicas = seen_ms.map(
                |ms| serde_json::json!({ "name": "n", "current": true, "active": ms * 1_000_000 }),
            );
            serde_json::json!({ "name": "c", "leader": leader, "replicas": replicas })
        };
        assert!(described_by(serde_json::Value::Null), "one server");
        assert!(described_by(serde_json::json!({ "name": "c", "leader": "n1" })), "one copy");
        assert!(described_by(copies(Some("n1"), [900, 800])));
        assert!(described_by(copies(Some("n1"), [60_000, 800])), "one is down");
        assert!(!described_by(copies(None, [900, 800])), "an election");
        assert!(!described_by(copies(Some("n1"), [4_000, 60_000])), "cut off");
        assert!(!described_by(copies(Some("n1"), [0, 0])), "never heard of");
    }

    #[test]
    fn every_setting_that_could_lose_a_callback_is_checked() {
        type Change = (&'static str, fn(&mut Config));
        let changes: [Change; 12] = [
            ("subjects", |c| c.subjects.push("other".into())),
            ("storage", |c| c.storage = StorageType::Memory),
            ("retention", |c| c.retention = RetentionPolicy::WorkQueue),
            ("discard", |c| c.discard = DiscardPolicy::Old),
            ("max_bytes", |c| c.max_bytes = -1),
            ("max_age", |c| c.max_age = Duration::from_secs(1)),
            ("max_msgs", |c| c.max_messages = 5),
            ("deny_delete", |c| c.deny_delete = false),
            ("duplicate_window", |c| c.duplicate_window = Duration::from_secs(1)),
            ("no_ack", |c| c.no_ack = true),
            ("allow_msg_ttl", |c| c.allow_message_ttl = true),
            ("persist_mode", |c| c.persist_mode = Some(PersistenceMode::Async)),
        ];
        let partition = Layout::new(1, 16).first();
        for (name, change) in changes {
            let mut found = config(partition, 1, 1 << 20);
            change(&mut found);
            let differences = differences(&found, partition);
            assert_eq!(differences.len(), 1, "{name}: {differences:?}");
            assert!(differences[0].starts_with(name), "{differences:?}");
        }
        let other_number = config(Layout::new(1, 8).first(), 1, 1 << 20);
        assert_eq!(differences(&other_number, partition).len(), 1);
        let other_generation = config(Layout::new(2, 16).first(), 1, 1 << 20);
        assert_eq!(differences(&other_generation, partition).len(), 1);
    }
}
