//! The metrics of all listeners.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const OPEN: &str = "ackline_connections";
const ENDED: &str = "ackline_connections_ended_total";

/// Describes the metrics of all listeners. Call once, after the recorder is installed.
pub fn describe_metrics() {
    describe_gauge!(OPEN, "Open connections, by listener");
    describe_counter!(
        ENDED,
        "Connections that a limit has ended, by listener and limit: silence, header, idle, write, \
         or place, when another needed it"
    );
}

/// Counts a connection that a limit ended.
pub(super) fn ended(listener: &'static str, limit: &'static str) {
    counter!(ENDED, "listener" => listener, "limit" => limit).increment(1);
}

/// Counts an open connection.
pub(super) struct Counted(&'static str);

impl Counted {
    pub(super) fn new(listener: &'static str) -> Self {
        gauge!(OPEN, "listener" => listener).increment(1.0);
        Self(listener)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(OPEN, "listener" => self.0).decrement(1.0);
    }
}
