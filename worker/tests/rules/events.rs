//! Events for tests, said in one line each.

use chrono::{DateTime, Duration, Utc};
use shared::callback::{Callback, Kind, Status};
use worker::rules::event::{Body, Event, Position};

pub(crate) fn at(seq: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + Duration::seconds(seq)
}

pub(crate) fn callback(kind: Kind) -> Callback {
    Callback {
        job_id: "job".into(),
        kind,
        workflow_run_id: None,
        run_attempt: None,
        error: None,
        failed_step: None,
        agent_id: None,
        region: None,
        heartbeat_timeout_s: None,
        event_id: None,
        sent_at: None,
    }
}

pub(crate) fn queued() -> Callback {
    Callback {
        agent_id: Some("agent".into()),
        region: Some("eu".into()),
        ..callback(Kind::Status(Status::Queued))
    }
}

pub(crate) fn provisioning() -> Callback {
    callback(Kind::Status(Status::Provisioning))
}

pub(crate) fn running() -> Callback {
    callback(Kind::Status(Status::Running))
}

pub(crate) fn failed() -> Callback {
    Callback {
        error: Some("no quota".into()),
        failed_step: Some("apply".into()),
        ..callback(Kind::Status(Status::Failed))
    }
}

pub(crate) fn heartbeat() -> Callback {
    callback(Kind::Heartbeat)
}

pub(crate) fn of_run(callback: Callback, run: i64, attempt: Option<i32>) -> Callback {
    Callback { workflow_run_id: Some(run.to_string()), run_attempt: attempt, ..callback }
}

/// The callback, stored at this sequence and its second.
pub(crate) fn event(seq: i64, callback: Callback) -> Event {
    Event { position: Position { seq, idx: 0 }, at: at(seq), body: Body::Callback(callback) }
}

pub(crate) fn lost(seq: i64, witness: Position) -> Event {
    Event {
        position: Position { seq, idx: 0 },
        at: at(seq),
        body: Body::Lost { job_id: "job".into(), witness },
    }
}
