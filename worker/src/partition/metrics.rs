//! What the owner of a partition measures. Labels come from closed sets, never from a sender.

use std::time::Duration;

use chrono::Utc;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use sea_orm::Iterable;
use shared::partition::Partition;
use shared::telemetry::ACCEPT_TO_COMMIT;

use crate::apply::Applied;
use crate::rules::decision::{Effect, Reason};
use crate::rules::event::Incoming;
use crate::rules::stop_reason::StopCode;

const EVENTS: &str = "ackline_worker_events_total";
const IGNORED: &str = "ackline_worker_ignored_total";
const COMMITS: &str = "ackline_worker_commits_total";
const BATCH_SECONDS: &str = "ackline_worker_batch_seconds";
const BATCH_CALLBACKS: &str = "ackline_worker_batch_callbacks";
const ACQUISITIONS: &str = "ackline_worker_acquisitions_total";
const FENCES: &str = "ackline_worker_fences_total";
const TAKEOVER_SECONDS: &str = "ackline_worker_takeover_seconds";
const PARTITIONS_OWNED: &str = "ackline_worker_partitions_owned";
const INGRESS_UNHEARD: &str = "ackline_worker_ingress_unheard_seconds";
const PARTITION_STOPPED: &str = "ackline_worker_partition_stopped";
const HORIZON_SHRUNK: &str = "ackline_worker_replay_horizon_shrunk";

/// Says what each metric means, and shows those at 0 that alerts add up; call once, after the
/// recorder is installed.
pub(crate) fn describe() {
    describe_counter!(
        EVENTS,
        "Events by effect: applied, unchanged, ignored, presumed (failed), revived, held, dead."
    );
    describe_counter!(IGNORED, "Events that were ignored, by reason, such as duplicate.");
    describe_counter!(COMMITS, "Batches that were committed.");
    describe_histogram!(
        BATCH_SECONDS,
        Unit::Seconds,
        "From a batch's first statement to its commit."
    );
    describe_histogram!(BATCH_CALLBACKS, "Callbacks and internal events in a batch.");
    describe_histogram!(
        ACCEPT_TO_COMMIT,
        Unit::Seconds,
        "From the stream's confirmation of a callback to the commit of its effect, by the broker's \
         clock and the worker's."
    );
    describe_counter!(ACQUISITIONS, "Partitions that were acquired.");
    describe_counter!(FENCES, "Partitions that were lost to another worker.");
    describe_histogram!(
        TAKEOVER_SECONDS,
        Unit::Seconds,
        "From acquiring a partition to reading it, the message at its checkpoint checked."
    );
    describe_gauge!(PARTITIONS_OWNED, "Partitions that this process owns.");
    describe_gauge!(
        INGRESS_UNHEARD,
        Unit::Seconds,
        "How long no ingress was heard of an owned partition, the longest of them; no silent job is \
         presumed failed while it is long. 0 where nothing is owned."
    );
    describe_gauge!(
        PARTITION_STOPPED,
        "Whether a partition is stopped, by the reason's code; 0 from a worker that does not own it."
    );
    describe_gauge!(
        HORIZON_SHRUNK,
        "Whether a partition's stream was too small for the replay horizon; 0 from a worker that \
         does not own it."
    );
    for effect in Effect::iter() {
        counter!(EVENTS, "effect" => effect.as_str()).increment(0);
    }
    for name in [COMMITS, ACQUISITIONS, FENCES] {
        counter!(name).increment(0);
    }
    counter!(IGNORED, "reason" => Reason::Duplicate.as_str()).increment(0);
}

/// A batch was committed that took this long.
pub(crate) fn committed(took: Duration, incoming: &[Incoming], applied: &Applied) {
    counter!(COMMITS).increment(1);
    histogram!(BATCH_SECONDS).record(took);
    histogram!(BATCH_CALLBACKS).record(incoming.len() as f64);
    for (effect, count) in &applied.effects {
        counter!(EVENTS, "effect" => effect.as_str()).increment(*count);
    }
    for (reason, count) in &applied.ignored {
        counter!(IGNORED, "reason" => reason.as_str()).increment(*count);
    }
    #[expect(clippy::disallowed_methods, reason = "it is shown, and decides nothing")]
    let now = Utc::now();
    let latency = histogram!(ACCEPT_TO_COMMIT);
    // Those of one message share its time.
    for message in incoming.chunk_by(|one, next| one.position.seq == next.position.seq) {
        let Some(first) = message.first() else { continue };
        let waited = now.signed_duration_since(first.at).to_std().unwrap_or_default();
        latency.record_many(waited, message.len());
    }
}

pub(crate) fn acquired() {
    counter!(ACQUISITIONS).increment(1);
}

pub(crate) fn fenced() {
    counter!(FENCES).increment(1);
}

pub(crate) fn taken_over(took: Duration) {
    histogram!(TAKEOVER_SECONDS).record(took);
}

pub(crate) fn owned(partitions: usize) {
    gauge!(PARTITIONS_OWNED).set(partitions as f64);
}

pub(crate) fn ingress_unheard(longest: Duration) {
    gauge!(INGRESS_UNHEARD).set(longest);
}

/// The partition is stopped for this reason, or for none.
pub(crate) fn stopped(partition: Partition, stop: Option<StopCode>) {
    for code in StopCode::iter() {
        let labels = [("partition", partition.to_string()), ("code", code.to_string())];
        gauge!(PARTITION_STOPPED, &labels).set(f64::from(u8::from(stop == Some(code))));
    }
}

pub(crate) fn horizon_shrunk(partition: Partition, is_shrunk: bool) {
    gauge!(HORIZON_SHRUNK, "partition" => partition.to_string())
        .set(f64::from(u8::from(is_shrunk)));
}

/// The partition is not this process's any more: what it knew of it is old.
pub(crate) fn lost(partition: Partition) {
    stopped(partition, None);
    horizon_shrunk(partition, false);
}
