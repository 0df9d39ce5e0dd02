//! Workers whose clocks are wrong. Silence is measured by the clocks of the broker and the database.

use chrono::{DateTime, TimeDelta};
use e2e::stack::{Worker, listening};
use e2e::tools;
use rstest::rstest;

use super::*;

/// A worker whose clock is off by so many seconds.
async fn start_with_clock(stack: &Stack, off_s: i64) -> Worker {
    let library = tools::faketime().unwrap().to_str().unwrap().to_owned();
    let off = format!("{off_s:+}s");
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", off.as_str()),
        // Waiting is measured by a clock that nobody sets.
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let worker = stack.start_worker_with(&env, &[]).await.unwrap();
    let line = listening(&worker.process).await.unwrap();
    let at: DateTime<chrono::Utc> = line["timestamp"].as_str().unwrap().parse().unwrap();
    let off = at.signed_duration_since(now()) - TimeDelta::seconds(off_s);
    assert!(off.abs() < TimeDelta::seconds(60), "the clock is off by {off}");
    worker
}

#[rstest]
#[case::ahead(600)]
#[case::behind(-600)]
#[tokio::test]
async fn a_wrong_clock_changes_nothing(
    #[case] off_s: i64,
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let mut stack = impatient(db, "3s").start().await.unwrap();
    let rows = stack.db().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let _worker = start_with_clock(&stack, off_s).await;
    accept(&stack, status("silent", "provisioning")).await;
    accept(&stack, status("alive", "provisioning")).await;
    let presumed = stack
        .wait_for("silent is presumed failed", SOON, async || {
            // A third of the timeout lies between two heartbeats, and often less.
            accept(&stack, heartbeat("alive")).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            job(&rows, "silent").await.filter(is_presumed)
        })
        .await;
    let silent = presumed.updated_at.signed_duration_since(presumed.created_at);
    assert!(silent >= TimeDelta::seconds(3), "{silent}");
    assert!(silent < TimeDelta::seconds(300), "{silent}: it took the wrong clock");
    let alive = job(&rows, "alive").await.unwrap();
    assert_eq!((alive.status, alive.failure), (Status::Provisioning, None));
    assert_eq!(outcomes(&rows, "alive").await, [(Kind::Provisioning, Effect::Applied)]);
    assert_audited(&stack).await;
}
