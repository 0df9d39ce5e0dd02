//! The stream contract: a partition is a stream, and these are its settings.
//!
//! `ackline migrate` creates the streams; ingress and the workers only check them.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PeerInfo, PersistenceMode, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, ErrorCode};

use crate::partition::{MAX_PARTITIONS, Partition};

/// How many partitions a deployment has unless it chooses otherwise: docs/PERFORMANCE.md says why.
pub const DEFAULT_PARTITIONS: u16 = 4;
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
         metadata ({PARTITIONS_KEY}): their number never changes, set it back"
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
    /// The broker did not answer.
    #[error("ACK-205: the broker did not describe the stream {stream}")]
    Broker {
        /// The stream's name.
        stream: String,
        /// What async-nats says.
        source: jetstream::context::GetStreamError,
    },
}

/// The settings of a partition's stream.
#[must_use]
pub fn config(partition: Partition, partitions: u16, replicas: usize, max_bytes: i64) -> Config {
    Config {
        name: partition.stream(),
        // In the order in which `differences` compares them.
        subjects: vec![
            partition.callbacks_subject(),
            partition.internal_subject(),
            partition.orders_subject(),
        ],
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

/// What of a stream's settings breaks the contract; replicas and `max_bytes` are the operator's.
#[must_use]
pub fn differences(found: &Config, partition: Partition, partitions: u16) -> Vec<String> {
    let expected = config(partition, partitions, found.num_replicas, found.max_bytes);
    let mut differences = Vec::new();
    let mut check = |name: &str, holds: bool, must: String| {
        if !holds {
            differences.push(format!("{name} must be {must}"));
        }
    };
    let mut subjects = found.subjects.clone();
    subjects.sort();
    check("subjects", subjects == expected.subjects, expected.subjects.join(", "));
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

/// Reads the number of partitions and checks every stream against the contract.
///
/// # Errors
/// [`ContractError`], of the first stream that can't be used. [`ContractError::NoLeader`] and
/// [`ContractError::Broker`] may pass by themselves: check again. The others need an operator.
pub async fn check(jetstream: &jetstream::Context) -> Result<u16, ContractError> {
    let describe = async |partition: Partition| {
        describe(jetstream, partition)
            .await?
            .ok_or_else(|| ContractError::Missing(partition.stream()))
    };
    let first = describe(Partition::new(0)).await?;
    let partitions = partitions_of(&first.config).ok_or_else(|| ContractError::Differs {
        stream: first.config.name.clone(),
        differences: vec![format!("its metadata must name {PARTITIONS_KEY}")],
    })?;
    for partition in Partition::all(partitions) {
        let info = describe(partition).await?;
        let differences = differences(&info.config, partition, partitions);
        if !differences.is_empty() {
            return Err(ContractError::Differs { stream: partition.stream(), differences });
        }
        if !has_leader(&info) {
            return Err(ContractError::NoLeader(partition.stream()));
        }
    }
    check_no_more(jetstream, partitions).await?;
    Ok(partitions)
}

/// Checks that there is no stream beyond those that the metadata name: with a smaller number in
/// all metadata, jobs would change their partition.
///
/// # Errors
/// [`ContractError::TooMany`], which needs an operator, or [`ContractError::Broker`]: check again.
pub async fn check_no_more(
    jetstream: &jetstream::Context,
    partitions: u16,
) -> Result<(), ContractError> {
    if partitions < MAX_PARTITIONS
        && let Some(info) = describe(jetstream, Partition::new(partitions)).await?
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
        let made = config(Partition::new(3), 16, 3, 1 << 30);
        assert_eq!(differences(&made, Partition::new(3), 16), Vec::<String>::new());
        assert_eq!(partitions_of(&made), Some(16));
    }

    #[test]
    fn a_stream_of_a_cluster_needs_a_leader() {
        let described_by = |cluster: serde_json::Value| {
            let mut info = serde_json::json!({
                "config": config(Partition::new(0), 16, 3, 1 << 20),
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
        for (name, change) in changes {
            let mut found = config(Partition::new(0), 16, 1, 1 << 20);
            change(&mut found);
            let differences = differences(&found, Partition::new(0), 16);
            assert_eq!(differences.len(), 1, "{name}: {differences:?}");
            assert!(differences[0].starts_with(name), "{differences:?}");
        }
        let other_number = config(Partition::new(0), 8, 1, 1 << 20);
        assert_eq!(differences(&other_number, Partition::new(0), 16).len(), 1);
    }
}
