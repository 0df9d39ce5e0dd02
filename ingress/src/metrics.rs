//! The metrics of ingress. Labels come from closed sets or from the configuration, never from a
//! request.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use shared::eviction::Slot;

use crate::answer::Refusal;
use crate::signature::{Keys, Scheme};

const ACCEPTED: &str = "ackline_ingress_accepted_total";
const REFUSED: &str = "ackline_ingress_refused_total";
const VERIFIED: &str = "ackline_ingress_verified_total";
const DUPLICATES: &str = "ackline_ingress_duplicates_total";
const RELOADS: &str = "ackline_ingress_reloads_total";
const PUBLISH_SECONDS: &str = "ackline_ingress_publish_seconds";
const BUNDLE_CALLBACKS: &str = "ackline_ingress_bundle_callbacks";
const IN_FLIGHT: &str = "ackline_ingress_in_flight";
const BROKER_UP: &str = "ackline_ingress_broker_up";

// Looked up once, because every callback or bundle moves them.
static ALL_ACCEPTED: LazyLock<Counter> = LazyLock::new(|| counter!(ACCEPTED));
static ALL_IN_FLIGHT: LazyLock<Gauge> = LazyLock::new(|| gauge!(IN_FLIGHT));
static EACH_PUBLISH: LazyLock<Histogram> = LazyLock::new(|| histogram!(PUBLISH_SECONDS));
static EACH_BUNDLE: LazyLock<Histogram> = LazyLock::new(|| histogram!(BUNDLE_CALLBACKS));

/// Describes each metric. Call once, after the recorder is installed.
pub(crate) fn describe() {
    shared::listener::describe_metrics();
    describe_counter!(ACCEPTED, "Callbacks that the stream has confirmed");
    describe_counter!(REFUSED, "Requests that were not answered with 200, by reason");
    describe_counter!(VERIFIED, "Signatures that held, by the id of the key and the scheme");
    describe_counter!(RELOADS, "Files that were read again on SIGHUP, by what and outcome");
    describe_counter!(DUPLICATES, "Bundles that the stream had already when they were sent again");
    describe_histogram!(PUBLISH_SECONDS, "From a bundle's first publish to its confirmation");
    describe_histogram!(BUNDLE_CALLBACKS, "Callbacks in a confirmed bundle");
    describe_gauge!(IN_FLIGHT, "Requests whose callback is held in memory");
    describe_gauge!(BROKER_UP, "1 while the broker is connected and its streams are as they must");
    broker_up(false);
    ALL_IN_FLIGHT.set(0.0);
    ALL_ACCEPTED.increment(0);
    counter!(DUPLICATES).increment(0);
    for refusal in Refusal::ALL {
        counter!(REFUSED, "reason" => refusal.reason()).increment(0);
    }
    for what in ["secrets", "certificate"] {
        for outcome in ["done", "failed"] {
            counter!(RELOADS, "what" => what, "outcome" => outcome).increment(0);
        }
    }
}

pub(crate) fn accepted() {
    ALL_ACCEPTED.increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Exports unused keys as well.
pub(crate) fn keys(keys: &Keys) {
    for id in keys.ids() {
        for scheme in keys.schemes() {
            counter!(VERIFIED, "key" => Arc::clone(id), "scheme" => scheme.as_str()).increment(0);
        }
    }
}

pub(crate) fn verified(scheme: Scheme, key: &Arc<str>) {
    counter!(VERIFIED, "key" => Arc::clone(key), "scheme" => scheme.as_str()).increment(1);
}

pub(crate) fn reloaded(what: &'static str, done: bool) {
    let outcome = if done { "done" } else { "failed" };
    counter!(RELOADS, "what" => what, "outcome" => outcome).increment(1);
}

pub(crate) fn confirmed(took: Duration, callbacks: usize) {
    EACH_PUBLISH.record(took);
    EACH_BUNDLE.record(callbacks as f64);
}

/// A bundle was confirmed that an earlier attempt had stored.
pub(crate) fn duplicate() {
    counter!(DUPLICATES).increment(1);
}

pub(crate) fn broker_up(up: bool) {
    gauge!(BROKER_UP).set(if up { 1.0 } else { 0.0 });
}

/// A slot among the requests in flight, and the gauge that counts them.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) slot: Slot,
}

impl InFlight {
    pub(crate) fn new(slot: Slot) -> Self {
        ALL_IN_FLIGHT.increment(1.0);
        Self { slot }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        ALL_IN_FLIGHT.decrement(1.0);
    }
}
