//! Jobs that fall silent: who is presumed failed, when, and who is not. Timeouts are those of
//! minutes shortened to seconds.

mod clocks;
mod deadlines;
mod index;
mod outages;
mod runs;
mod workers;

use e2e::stack::{Builder, Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::json;
use worker::entity::job::{Failure, Model as Job, Status};
use worker::entity::job_event::{Effect, Kind};

use crate::expect::*;
use crate::workflow::timeline;

/// A stack whose jobs may be silent for this long.
fn impatient(db: Db, heartbeat_timeout: &str) -> Builder {
    Stack::builder().db(db).partitions(2).env("HEARTBEAT_TIMEOUT", heartbeat_timeout)
}

fn is_presumed(job: &Job) -> bool {
    (job.status, job.failure) == (Status::Failed, Some(Failure::Presumed))
}

async fn wait_until_presumed(stack: &Stack, db: &DatabaseConnection, id: &str) -> Job {
    stack
        .wait_for(&format!("{id} is presumed failed"), SOON, async || {
            job(db, id).await.filter(is_presumed)
        })
        .await
}

/// What happened to a job, in order.
async fn outcomes(db: &DatabaseConnection, id: &str) -> Vec<(Kind, Effect)> {
    timeline(db, id).await.into_iter().map(|event| (event.kind, event.outcome)).collect()
}
