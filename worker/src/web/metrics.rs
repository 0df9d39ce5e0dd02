//! The metrics of the console and its API.

use metrics::{counter, describe_counter};

const REFUSED: &str = "ackline_worker_console_refused_total";

/// Describes each metric. Call once, after the recorder is installed.
pub(crate) fn describe() {
    describe_counter!(
        REFUSED,
        "Tokens that the console did not accept, by reason: wrong_token, or too_many, which were \
         not compared"
    );
    for reason in ["wrong_token", "too_many"] {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
}

pub(super) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}
