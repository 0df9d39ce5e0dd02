//! Trims the stream of a partition that this process owns. It purges applied messages that are
//! older than the replay horizon and, in a stream that fills up, applied messages of any age. It
//! never purges the message at the checkpoint, which proves that the stream is the applied one, nor
//! anything above it.
//!
//! A purge goes up to a sequence that comes from the row that this epoch has committed, read again
//! each time. A fenced owner finds no such row. A purge that it had begun is bounded by its own
//! checkpoint, which is never above the one that its successors started from.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::stream::Info;
use chrono::{DateTime, TimeDelta, Utc};
use shared::partition::Partition;

use super::identify::identify;
use super::metrics;
use super::worker::Worker;
use crate::rules::verdict::{Checkpoint, Description, Message, Verdict, judge};
use crate::store::partitions;

/// The longest time between two rounds; a short horizon makes it shorter.
const CALM_INTERVAL: Duration = Duration::from_secs(30);
/// The time between two rounds for a stream that is more than half full.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// How long a round may take.
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// Above this share of `max_bytes`, in percent, age no longer counts.
const PRESSURE_PERCENT: u64 = 80;
/// How full a purge under pressure leaves the stream: well below the threshold, so that it does not
/// purge message by message from then on.
const RELIEF_PERCENT: u64 = 75;

type Fault = Box<dyn Error + Send + Sync>;

pub(crate) fn describe_metrics() {
    ::metrics::describe_counter!(
        "ackline_worker_purged_messages_total",
        "Applied messages that were purged, by reason: horizon or pressure."
    );
    for reason in ["horizon", "pressure"] {
        ::metrics::counter!("ackline_worker_purged_messages_total", "reason" => reason)
            .increment(0);
    }
}

/// A stream's description, and how far it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The first stored sequence.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// The checkpoint.
    pub applied: u64,
    /// The size of the stream.
    pub bytes: u64,
    /// Its limit.
    pub max_bytes: u64,
}

impl Seen {
    fn is_above(&self, percent: u64) -> bool {
        u128::from(self.bytes) * 100 > u128::from(self.max_bytes) * u128::from(percent)
    }

    /// The first sequence that a purge under pressure would keep, estimated by the average size of
    /// a message. The next round checks again.
    fn relief(&self) -> u64 {
        let messages = u128::from(self.last - self.first + 1);
        let target = u128::from(self.max_bytes) * u128::from(RELIEF_PERCENT) / 100;
        let excess = u128::from(self.bytes).saturating_sub(target);
        let drop = (excess * messages).div_ceil(u128::from(self.bytes).max(1));
        self.first.saturating_add(u64::try_from(drop).unwrap_or(u64::MAX))
    }
}

/// What to do with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Keep,
    /// Purge what is below, all of it older than the horizon.
    Expired {
        /// The first sequence that stays.
        keep_from: u64,
    },
    /// Purge what is below, although some of it is younger than the horizon.
    Shrink {
        /// The first sequence that stays.
        keep_from: u64,
    },
    /// The stream is nearly full, and nothing may be purged: everything waits to be applied.
    Stuck,
}

/// Decides what to purge. `young_from` is the first sequence that is younger than the horizon. The
/// newest older message stays, because a younger backup may have its checkpoint there.
#[must_use]
pub fn plan(seen: &Seen, young_from: u64) -> Plan {
    // A stream that ends below the checkpoint has lost something: a person must decide.
    if seen.applied > seen.last || seen.first > seen.last {
        return Plan::Keep;
    }
    let pressed = seen.is_above(PRESSURE_PERCENT);
    if seen.applied <= seen.first {
        return if pressed { Plan::Stuck } else { Plan::Keep };
    }
    let expired = young_from.saturating_sub(1).clamp(seen.first, seen.applied);
    let relief = if pressed { seen.relief().min(seen.applied) } else { seen.first };
    if relief > expired {
        Plan::Shrink { keep_from: relief }
    } else if expired > seen.first {
        Plan::Expired { keep_from: expired }
    } else {
        Plan::Keep
    }
}

/// A binary search for the first sequence from `low` to `high` that is not old; it is `high` if all
/// before it are old.
#[derive(Debug)]
struct Search {
    low: u64,
    high: u64,
}

impl Search {
    /// The next sequence to examine; none if the search is over, with the result in `low`.
    fn next(&self) -> Option<u64> {
        (self.low < self.high).then(|| self.low + (self.high - self.low) / 2)
    }

    fn tell(&mut self, seq: u64, is_old: bool) {
        if is_old {
            self.low = seq + 1;
        } else {
            self.high = seq;
        }
    }
}

fn is_old(stored: DateTime<Utc>, now: DateTime<Utc>, horizon: Duration) -> bool {
    TimeDelta::from_std(horizon).is_ok_and(|horizon| now.signed_duration_since(stored) > horizon)
}

/// Trims the partition's stream periodically, for as long as it is polled: while the partition is
/// owned and read.
pub async fn tend(worker: &Worker, partition: Partition, epoch: i64) -> Infallible {
    let Some(horizon) = worker.replay_horizon else { return std::future::pending().await };
    let calm = (horizon / 10).clamp(SHORTEST_INTERVAL, CALM_INTERVAL);
    let mut janitor = Janitor { worker, partition, epoch, horizon, shrunk: false, stuck: false };
    loop {
        let busy = match worker.connections.answer(ROUND_LIMIT, janitor.round()).await {
            Ok(busy) => busy,
            Err(error) => {
                tracing::warn!(%partition, error, "the stream is not trimmed; trying again");
                false
            }
        };
        tokio::time::sleep(if busy { BUSY_INTERVAL.min(calm) } else { calm }).await;
    }
}

struct Janitor<'a> {
    worker: &'a Worker,
    partition: Partition,
    epoch: i64,
    /// How long applied messages stay.
    horizon: Duration,
    /// Whether the horizon was shrunk to make room, and has not recovered since.
    shrunk: bool,
    /// Whether the stream is nearly full of messages that are not applied.
    stuck: bool,
}

impl Janitor<'_> {
    /// Runs one round. Returns whether the next one should follow soon.
    async fn round(&mut self) -> Result<bool, Fault> {
        let (worker, number) = (self.worker, i32::from(self.partition.number()));
        let committed =
            partitions::committed(&worker.db.get(), number, &worker.id, self.epoch).await?;
        // Somebody else owns the partition; our reader is about to notice.
        let Some(committed) = committed else { return Ok(false) };
        let stream = worker.jetstream.get_stream(self.partition.stream()).await?;
        let info = stream.cached_info();
        let checkpoint = Checkpoint::from(&committed.row);
        let Some(seen) = see(info, &checkpoint) else { return Ok(false) };

        let oldest = info.state.first_timestamp;
        let is_old = |stored| is_old(stored, committed.now, self.horizon);
        // Past an accepted gap, the next message serves as well.
        let look = async |seq| stream.get_first_raw_message_by_subject(">", seq).await;
        let mut search = Search { low: seen.first, high: seen.first };
        // The message that the last purge kept is old, and usually it is the only one.
        if seen.applied > seen.first && is_old(oldest) {
            search.low = seen.first + 1;
            let is_more = is_old(look(search.low).await?.time);
            search.high = if is_more { seen.applied + 1 } else { search.low };
        }
        while let Some(seq) = search.next() {
            search.tell(seq, is_old(look(seq).await?.time));
        }
        if is_old(oldest) {
            self.show_shrunk(false);
        }
        let plan = plan(&seen, search.low);
        self.show_stuck(plan == Plan::Stuck);
        let (keep_from, reason) = match plan {
            Plan::Keep | Plan::Stuck => return Ok(seen.is_above(50)),
            Plan::Expired { keep_from } => (keep_from, "horizon"),
            Plan::Shrink { keep_from } => (keep_from, "pressure"),
        };
        // If an operator let the partition continue, no message proves the stream.
        let jetstream = &worker.jetstream;
        if !checkpoint.has_message()
            || identify(jetstream, self.partition, info, &checkpoint).await? != Verdict::Believed
        {
            return Ok(false);
        }
        let purged = stream.purge().sequence(keep_from).await?.purged;
        ::metrics::counter!("ackline_worker_purged_messages_total", "reason" => reason)
            .increment(purged);
        tracing::debug!(partition = %self.partition, keep_from, purged, reason, "purged");
        if reason == "pressure" {
            self.show_shrunk(true);
        }
        Ok(seen.is_above(50))
    }

    fn show_shrunk(&mut self, shrunk: bool) {
        if shrunk && !self.shrunk {
            tracing::warn!(
                partition = %self.partition,
                "the stream is nearly full: applied messages younger than the replay horizon are \
                 purged, and the horizon has shrunk; give the stream more room (STREAM_MAX_BYTES)"
            );
        }
        self.shrunk = shrunk;
        metrics::horizon_shrunk(self.partition, shrunk);
    }

    fn show_stuck(&mut self, stuck: bool) {
        if stuck && !self.stuck {
            tracing::warn!(
                partition = %self.partition,
                "the stream is nearly full of what is not applied yet; when it is full, callbacks \
                 are refused until some of it is applied"
            );
        }
        self.stuck = stuck;
    }
}

/// The stream and the checkpoint; none if the description is not believed, because the checkpoint
/// says nothing about another stream.
fn see(info: &Info, checkpoint: &Checkpoint<'_>) -> Option<Seen> {
    match judge(checkpoint, &Description::from(info), Message::NotRead) {
        Verdict::Believed => {}
        Verdict::NoLeader | Verdict::Differs(_) => return None,
    }
    Some(Seen {
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        applied: checkpoint.applied_seq,
        bytes: info.state.bytes,
        max_bytes: u64::try_from(info.config.max_bytes).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use shared::stream;

    use shared::partition::Layout;

    use super::*;
    use crate::rules::event::micros;

    const HALF_FULL: Seen =
        Seen { first: 1, last: 1000, applied: 900, bytes: 50_000, max_bytes: 100_000 };

    #[test]
    fn a_stream_without_a_leader_is_left_alone() {
        let mut info = serde_json::json!({
            "config": stream::config(Layout::new(1, 1).first(), 3, 1 << 20),
            "created": "2026-11-23T13:40:44.690747807Z",
            "cluster": { "name": "c", "leader": "n1", "replicas": [
                { "name": "n2", "current": true, "active": 900_000_000 },
                { "name": "n3", "current": true, "active": 60_000_000_000_u64 },
            ]},
            "state": {
                "messages": 9, "bytes": 900, "consumer_count": 0,
                "first_seq": 1, "first_ts": "2026-11-23T13:40:45Z",
                "last_seq": 9, "last_ts": "2026-11-23T13:40:46Z",
            },
        });
        let sees = |info: &serde_json::Value| {
            let info: Info = serde_json::from_value(info.clone()).unwrap();
            let checkpoint = Checkpoint {
                applied_seq: 5,
                applied_msg_id: Some("five"),
                stream_created_at: Some(micros(info.created)),
                is_accepted: false,
            };
            see(&info, &checkpoint).is_some()
        };
        assert!(sees(&info));
        info["cluster"]["replicas"][0]["active"] = 4_000_000_000_u64.into();
        assert!(!sees(&info), "a node alone");
    }

    #[test]
    fn what_is_applied_and_old_goes_and_the_checkpoint_stays() {
        assert_eq!(plan(&HALF_FULL, 1), Plan::Keep);
        assert_eq!(plan(&HALF_FULL, 2), Plan::Keep);
        assert_eq!(plan(&HALF_FULL, 301), Plan::Expired { keep_from: 300 });
        // Everything is old: the message at the checkpoint and everything above it stay.
        assert_eq!(plan(&HALF_FULL, 1001), Plan::Expired { keep_from: 900 });
        let trimmed = Seen { first: 900, ..HALF_FULL };
        assert_eq!(plan(&trimmed, 1001), Plan::Keep);
    }

    #[test]
    fn under_pressure_the_oldest_go_whatever_their_age() {
        let full = Seen { bytes: 100_000, ..HALF_FULL };
        assert_eq!(plan(&full, 1), Plan::Shrink { keep_from: 251 });
        assert_eq!(plan(&full, 100), Plan::Shrink { keep_from: 251 });
        assert_eq!(plan(&full, 252), Plan::Expired { keep_from: 251 }, "that is room enough");
        assert_eq!(plan(&full, 501), Plan::Expired { keep_from: 500 });
        assert_eq!(plan(&Seen { bytes: 80_000, ..HALF_FULL }, 1), Plan::Keep);
        assert!(matches!(plan(&Seen { bytes: 80_001, ..HALF_FULL }, 1), Plan::Shrink { .. }));
    }

    #[test]
    fn under_pressure_no_more_goes_than_is_applied() {
        let full = Seen { bytes: 100_000, applied: 20, ..HALF_FULL };
        assert_eq!(plan(&full, 1), Plan::Shrink { keep_from: 20 });
        for applied in [0, 1] {
            assert_eq!(plan(&Seen { applied, ..full }, 1), Plan::Stuck);
        }
        assert_eq!(plan(&Seen { first: 20, ..full }, 1), Plan::Stuck);
    }

    #[test]
    fn a_stream_that_is_empty_or_has_lost_something_is_left_alone() {
        let empty = Seen { first: 0, last: 0, applied: 0, bytes: 0, max_bytes: 100_000 };
        assert_eq!(plan(&empty, 0), Plan::Keep);
        let purged = Seen { first: 11, last: 10, applied: 10, ..empty };
        assert_eq!(plan(&purged, 11), Plan::Keep);
        let lost_its_tail = Seen { last: 899, bytes: 100_000, ..HALF_FULL };
        assert_eq!(plan(&lost_its_tail, 500), Plan::Keep);
    }

    #[test]
    fn no_plan_ever_touches_the_checkpoint_or_what_is_above() {
        for applied in 0..=12 {
            for (first, last) in [(1, 10), (5, 10), (10, 10), (11, 10), (0, 0)] {
                for bytes in [0, 1, 79, 81, 100, 5000] {
                    for young_from in 0..=12 {
                        let seen = Seen { first, last, applied, bytes, max_bytes: 100 };
                        let (Plan::Expired { keep_from } | Plan::Shrink { keep_from }) =
                            plan(&seen, young_from)
                        else {
                            continue;
                        };
                        assert!(first < keep_from && keep_from <= applied, "{seen:?}");
                    }
                }
            }
        }
    }

    /// However quiet the partition was before: messages 1 to 9 were stored and applied at these
    /// times.
    #[test]
    fn a_backup_younger_than_the_horizon_finds_its_checkpoint() {
        let horizon = 100;
        for stored in
            [[0; 9], [0, 0, 0, 0, 0, 0, 0, 500, 500], [0, 10, 20, 300, 310, 320, 330, 340, 500]]
        {
            for now in stored[8]..700 {
                let young_from = 1 + stored.iter().filter(|at| now - **at > horizon).count() as u64;
                let seen = Seen { first: 1, last: 9, applied: 9, bytes: 1, max_bytes: 100 };
                let Plan::Expired { keep_from } = plan(&seen, young_from) else { continue };
                for backup in now - horizon..=now {
                    let checkpoint = stored.iter().filter(|at| **at <= backup).count() as u64;
                    assert!(keep_from <= checkpoint, "{stored:?}: {backup} at {now}");
                }
            }
        }
    }

    #[test]
    fn the_horizon_is_found_with_few_requests() {
        for horizon in [0, 1, 2, 499_999, 500_000, 999_999, 1_000_000, 2_000_000] {
            let mut search = Search { low: 1, high: 1_000_000 };
            let mut asked = 0;
            while let Some(seq) = search.next() {
                search.tell(seq, seq < horizon);
                asked += 1;
            }
            assert_eq!(search.low, horizon.clamp(1, 1_000_000));
            assert!(asked <= 20, "{asked}");
        }
    }

    #[test]
    fn age_counts_from_when_the_stream_stored_it() {
        let stored = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let horizon = Duration::from_secs(60);
        let after = |seconds| stored + TimeDelta::seconds(seconds);
        assert!(!is_old(stored, after(-5), horizon));
        assert!(!is_old(stored, after(60), horizon));
        assert!(is_old(stored, after(61), horizon));
        assert!(!is_old(stored, after(61), Duration::MAX));
    }
}
