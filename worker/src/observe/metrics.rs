//! The metrics of a look. Labels come from closed sets, never from a sender.

use metrics::{Unit, describe_gauge, gauge};

use crate::entity::dead_letter::State;
use crate::entity::job::Status;

const LAG_MESSAGES: &str = "ackline_worker_lag_messages";
const LAG_SECONDS: &str = "ackline_worker_lag_seconds";
const STREAM_BYTES: &str = "ackline_worker_stream_bytes";
const STREAM_MAX_BYTES: &str = "ackline_worker_stream_max_bytes";
const JOBS: &str = "ackline_worker_jobs";
const DEAD_LETTERS: &str = "ackline_worker_dead_letters";
const OLDEST_SILENCE: &str = "ackline_worker_oldest_silence_seconds";

/// Describes each metric. Call once, after the recorder is installed.
pub(super) fn describe() {
    describe_gauge!(
        LAG_MESSAGES,
        "Messages of a partition behind its checkpoint, as this worker sees it; NaN if it does not."
    );
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "How long the first message behind the checkpoint has waited, as this worker sees it; 0 where \
         there is none, NaN if it does not see it."
    );
    describe_gauge!(STREAM_BYTES, Unit::Bytes, "How much a partition's stream holds.");
    describe_gauge!(STREAM_MAX_BYTES, Unit::Bytes, "How much it may hold.");
    describe_gauge!(
        JOBS,
        "Jobs of the owned partitions, by status. Each status is counted up to a limit: finished \
         jobs to 100 000, others to 1 000 000, each partition to its equal part of that."
    );
    describe_gauge!(
        DEAD_LETTERS,
        "Dead letters of the owned partitions, by state: dead, or held behind one. Each state is \
         counted to 10 000, each partition to its equal part of that."
    );
    describe_gauge!(
        OLDEST_SILENCE,
        Unit::Seconds,
        "How long the job has been silent that has been so for longest, among those in \
         provisioning of the owned partitions; 0 when there is none."
    );
}

pub(super) fn lag_messages(partition: i32, messages: Option<u64>) {
    of(LAG_MESSAGES, partition, messages.map(|messages| messages as f64));
}

pub(super) fn lag_seconds(partition: i32, seconds: Option<f64>) {
    of(LAG_SECONDS, partition, seconds);
}

/// What a stream holds, and what it may hold, in bytes.
pub(super) fn stream(partition: i32, sizes: Option<(u64, u64)>) {
    of(STREAM_BYTES, partition, sizes.map(|(bytes, _)| bytes as f64));
    of(STREAM_MAX_BYTES, partition, sizes.map(|(_, max_bytes)| max_bytes as f64));
}

/// What is not known is NaN: no comparison holds for it, and no maximum counts it.
fn of(name: &'static str, partition: i32, value: Option<f64>) {
    gauge!(name, "partition" => format!("{partition:02}")).set(value.unwrap_or(f64::NAN));
}

pub(super) fn jobs(status: Status, jobs: u64) {
    gauge!(JOBS, "status" => status.as_str()).set(jobs as f64);
}

pub(super) fn dead_letters(state: State, letters: u64) {
    gauge!(DEAD_LETTERS, "state" => state.as_str()).set(letters as f64);
}

pub(super) fn oldest_silence(seconds: f64) {
    gauge!(OLDEST_SILENCE).set(seconds);
}
