//! The callbacks that are sent and applied, as the action makes them.

use std::sync::Arc;

use e2e::http_load::Requests;
use e2e::stack::TEST_SECRET;
use serde_json::{Value, json};

/// The body of a job's status callback of this number.
pub(crate) fn status(job: &str, number: usize, status: &str) -> Value {
    let mut body = of_job(job, number);
    body["status"] = status.into();
    body
}

/// The body of a job's heartbeat of this number.
pub(crate) fn heartbeat(job: &str, number: usize) -> Value {
    let mut body = of_job(job, number);
    body["type"] = "heartbeat".into();
    body
}

fn of_job(job: &str, number: usize) -> Value {
    json!({
        "job_id": job, "event_id": format!("{job}-{number}"), "workflow_run_id": "18234567890",
        "run_attempt": 1,
    })
}

/// Requests with a heartbeat each, of as many jobs.
pub(crate) fn heartbeats(requests: usize) -> Arc<Requests> {
    let body = |number| heartbeat(&format!("bench-{number}"), 0).to_string();
    Requests::new(TEST_SECRET, (0..requests).map(body))
}
