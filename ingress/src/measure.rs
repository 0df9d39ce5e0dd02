//! What ingress measures. Labels come from closed sets, never from a request.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::sync::OwnedSemaphorePermit;

const ACCEPTED: &str = "ackline_ingress_accepted_total";
const REFUSED: &str = "ackline_ingress_refused_total";
const PUBLISH_SECONDS: &str = "ackline_ingress_publish_seconds";
const BUNDLE_CALLBACKS: &str = "ackline_ingress_bundle_callbacks";
const IN_FLIGHT: &str = "ackline_ingress_in_flight";
const BROKER_UP: &str = "ackline_ingress_broker_up";

/// Says what each metric means; call once, after the recorder is installed.
pub(crate) fn describe() {
    describe_counter!(ACCEPTED, "Callbacks that the stream has confirmed");
    describe_counter!(REFUSED, "Requests that were not answered with 200, by reason");
    describe_histogram!(PUBLISH_SECONDS, "From a bundle's first publish to its confirmation");
    describe_histogram!(BUNDLE_CALLBACKS, "Callbacks in a confirmed bundle");
    describe_gauge!(IN_FLIGHT, "Requests whose callback is held in memory");
    describe_gauge!(BROKER_UP, "1 while the broker is connected and its streams are as they must");
    broker_up(false);
    gauge!(IN_FLIGHT).set(0.0);
}

pub(crate) fn accepted() {
    counter!(ACCEPTED).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn confirmed(took: Duration, callbacks: usize) {
    histogram!(PUBLISH_SECONDS).record(took);
    histogram!(BUNDLE_CALLBACKS).record(callbacks as f64);
}

pub(crate) fn broker_up(up: bool) {
    gauge!(BROKER_UP).set(if up { 1.0 } else { 0.0 });
}

/// A place among the requests in flight, and the gauge that counts them.
#[derive(Debug)]
pub(crate) struct InFlight {
    _permit: OwnedSemaphorePermit,
}

impl InFlight {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        gauge!(IN_FLIGHT).increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT).decrement(1.0);
    }
}
