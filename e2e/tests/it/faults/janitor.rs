//! The streams are trimmed behind their checkpoints, and never beyond.

use std::time::Duration;

use async_nats::jetstream::stream::State;
use e2e::load::Load;
use e2e::stack::{Db, Stack};
use sea_orm::{ActiveModelTrait, DatabaseConnection, IntoActiveModel};
use serde_json::json;
use worker::entity::dead_letter;
use worker::entity::job::Status;

use crate::expect::*;

/// The smallest size that `ackline migrate` accepts.
const SMALL: u64 = 1 << 20;

/// About three times what such a stream holds.
fn three_streams_full(stack: &Stack) -> Load {
    Load { padding: 3000, ..Load::new(stack.ingress.addr, stack.secret(), 100) }
}

async fn stream_state(stack: &Stack) -> State {
    first_stream(stack).await.cached_info().state.clone()
}

#[tokio::test]
async fn a_stream_that_fills_up_gives_up_its_horizon_and_not_its_callbacks() {
    let stack = Stack::builder()
        .db(Db::Postgres)
        .partitions(1)
        .stream_max_bytes(SMALL)
        // The stream is looked at every two seconds.
        .env("REPLAY_HORIZON", "20s")
        .start()
        .await
        .unwrap();
    let report = three_streams_full(&stack).run().await.unwrap();
    assert_eq!(report.accepted(), 1000);
    assert_all_applied(&stack, &report).await;
    let db = stack.db().await.unwrap();
    let state = stream_state(&stack).await;
    assert!(state.first_sequence > 1 && state.bytes <= SMALL, "{state:?}");
    assert!(state.first_sequence <= partitions(&db).await[0].applied_seq as u64);
    let log = stack.worker.process.log();
    assert!(log.find_line(|line| line.contains("the horizon has shrunk")).is_some());
    assert_eq!(metric(&stack.worker, "ackline_worker_replay_horizon_shrunk").await, 1.0);
    println!("{} callbacks, {} retries, {state:?}", report.accepted(), report.retries);
}

#[tokio::test]
async fn a_full_stream_refuses_loses_nothing_and_recovers_once_a_worker_runs() {
    let mut stack = Stack::builder().partitions(1).stream_max_bytes(SMALL).start().await.unwrap();
    accept(&stack, status("before", "queued")).await;
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());

    let running = three_streams_full(&stack).start();
    let answer = stack
        .wait_for("the stream is full", SOON, async || {
            let answer = stack.post(status("during", "queued")).await.unwrap();
            (answer.status != 200).then_some(answer)
        })
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (503, r#"{"error":"Stream full"}"#));
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    assert_eq!(stream_state(&stack).await.first_sequence, 1, "nothing is purged unapplied");

    stack.start_worker().await.unwrap();
    let report = running.finish().await.unwrap();
    assert_eq!(report.accepted(), 1000);
    assert!(report.retries > 0);
    wait_until_applied(&stack, &db).await;
    // Beside the load there are the jobs of this test.
    assert_load_exactly_once(&db, &report, &["before", "during"]).await;
    assert_audited(&stack).await;
    assert!(stream_state(&stack).await.first_sequence > 1);
}

on_each_database!(what_is_old_goes_but_for_the_checkpoint_and_a_restarted_worker_goes_on);

async fn what_is_old_goes_but_for_the_checkpoint_and_a_restarted_worker_goes_on(db: Db) {
    let mut stack =
        Stack::builder().db(db).partitions(1).env("REPLAY_HORIZON", "1s").start().await.unwrap();
    let database = stack.db().await.unwrap();
    for step in ["queued", "provisioning", "running"] {
        accept(&stack, status("a", step)).await;
    }
    wait_until_applied(&stack, &database).await;
    stack
        .wait_until("only the checkpoint is left", SOON, async || {
            stream_state(&stack).await.first_sequence == 3
        })
        .await;
    assert_eq!(stream_state(&stack).await.messages, 1);
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());

    accept(&stack, status("b", "queued")).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(stream_state(&stack).await.first_sequence, 3, "the unapplied one stays");
    stack.start_worker().await.unwrap();
    wait_for_status(&stack, &database, "b", Status::Queued).await;
    let row = partitions(&database).await.remove(0);
    assert_eq!((row.applied_seq, row.stopped_reason), (4, None));
    stack
        .wait_until("the old checkpoint goes", SOON, async || {
            stream_state(&stack).await.first_sequence == 4
        })
        .await;
}

async fn ids(db: &DatabaseConnection) -> Vec<String> {
    jobs(db).await.into_iter().map(|job| job.id).collect()
}

on_each_database!(prune_removes_what_is_finished_and_old_and_keeps_what_a_stream_still_holds);

async fn prune_removes_what_is_finished_and_old_and_keeps_what_a_stream_still_holds(db: Db) {
    let mut stack = Stack::builder().db(db).partitions(1).env("LEASE", "1s").start().await.unwrap();
    let database = stack.db().await.unwrap();
    for (job, step) in [
        ("done", "queued"),
        ("done", "running"),
        ("failed", "failed"),
        ("waits", "running"),
        ("goes-on", "provisioning"),
        ("spoke-again", "running"),
        ("last", "queued"),
        ("spoke-again", "failed"),
    ] {
        accept(&stack, status(job, step)).await;
    }
    wait_until_applied(&stack, &database).await;
    let letter = dead_letter::Model {
        partition: 0,
        seq: 4,
        idx: 7,
        job_id: Some("waits".to_owned()),
        state: dead_letter::State::Dead,
        reason: "a test".to_owned(),
        subject: "callbacks.1.00".to_owned(),
        event_id: None,
        speaker: None,
        run: None,
        payload: Vec::new(),
        received_at: now(),
        refusals: 1,
    };
    letter.into_active_model().insert(&database).await.unwrap();
    let all = ids(&database).await;
    let prune = ["prune", "--older-than", "1ms", "--json"];

    let report = stack.ackline_json(&prune).await.unwrap();
    assert_eq!((&report["jobs"], &report["kept"]), (&json!(0), &json!(4)), "{report}");

    stack.worker.process.kill9();
    stack.worker = stack.start_worker_with(&[("REPLAY_HORIZON", "1s")], &[]).await.unwrap();
    stack
        .wait_until("only the checkpoint is left", SOON, async || {
            stream_state(&stack).await.first_sequence == 8
        })
        .await;
    let report = stack.ackline_json(&["prune", "--older-than", "1h", "--json"]).await.unwrap();
    assert_eq!((&report["jobs"], &report["kept"]), (&json!(0), &json!(0)), "{report}");
    let dry = stack.ackline_json(&[&prune[..], &["--dry-run"]].concat()).await.unwrap();
    assert_eq!(ids(&database).await, all, "a dry run only counts");
    let report = stack.ackline_json(&prune).await.unwrap();
    for report in [dry, report] {
        assert_eq!(
            (&report["jobs"], &report["job_events"], &report["kept"]),
            (&json!(2), &json!(3), &json!(2)),
            "{report}"
        );
    }
    // The last word of spoke-again changed nothing, but it is in the stream.
    assert_eq!(ids(&database).await, ["goes-on", "last", "spoke-again", "waits"]);
    let removed = ["done", "failed"];
    let events = events(&database).await;
    assert!(events.iter().all(|event| !removed.contains(&event.job_id.as_str())));
    assert_eq!(events.len(), 5);
}
