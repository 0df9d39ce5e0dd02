//! `ackline audit` finds whatever is not as the streams say, and nothing else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use e2e::load::Load;
use e2e::nats::publish_bundle;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::Value;
use worker::audit::audit;
use worker::audit::progress::{Progress, Step};
use worker::rules::transition::RULES_VERSION;
use worker::store::audit::Snapshot;

use crate::expect::*;

/// Everything that can happen to a callback: applied, ignored, dead, held, tried again in vain and
/// with success, discarded, undecodable. Returns when all of it has.
pub(crate) async fn everything_happens(stack: &Stack, db: Db) -> DatabaseConnection {
    let database = stack.db().await.unwrap();
    refuse_poison(stack, db).await;
    let report = Load::new(stack.ingress.addr, stack.secret(), 20).start().finish().await.unwrap();
    assert_eq!(report.accepted(), 200);
    for id in ["mended", "dropped", "waiting"] {
        accept(stack, poison(id)).await;
        accept(stack, status(id, "provisioning")).await;
        accept(stack, heartbeat(id)).await;
    }
    accept(stack, heartbeat("begun-by-a-heartbeat")).await;
    // A run's late callback, and one that says what is known.
    accept(stack, status("load-1", "provisioning")).await;
    accept(stack, status("load-1", "running")).await;
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    for subject in ["callbacks.1.00", "internal.1.01"] {
        publish_bundle(&jetstream, subject.into(), "garbage".into()).await.unwrap();
    }
    wait_until_applied(stack, &database).await;
    let place = |id: &str, letters: &[worker::entity::dead_letter::Model]| {
        place(letters.iter().find(|letter| letter.job_id.as_deref() == Some(id)).unwrap())
    };
    let letters = dead_letters(&database).await;
    // In vain: the database refuses them again.
    for id in ["mended", "waiting"] {
        let requeue = ["dead-letters", "requeue", &place(id, &letters)];
        assert_eq!(run(stack, &ackline(stack, &requeue)).await.0, 1);
    }
    let discard = ["dead-letters", "discard", &place("dropped", &letters), "--json"];
    stack.ackline_json(&discard).await.unwrap();
    accept_poison(stack, db).await;
    let requeue = ["dead-letters", "requeue", &place("mended", &letters), "--json"];
    stack.ackline_json(&requeue).await.unwrap();
    wait_until_applied(stack, &database).await;
    database
}

on_each_database!(a_sound_system_is_clean);

async fn a_sound_system_is_clean(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let database = everything_happens(&stack, db).await;
    let report = assert_audited(&stack).await;
    assert_eq!(report["clean"], true);
    assert_eq!(report["jobs_covered"], jobs(&database).await.len());
    assert_eq!(report["jobs_partly_covered"], 0);
    let counts = &report["counts"];
    // 200 of the load, 3 x 3, a heartbeat, two late ones, and two that can't be decoded.
    assert_eq!(counts["events"], 200 + 9 + 1 + 2 + 2, "{report}");
    assert_eq!(counts["heartbeats"], 20 * 7 + 3 + 1, "{report}");
    assert_eq!([&counts["dead"], &counts["held"], &counts["discarded"]], [3, 2, 1], "{report}");
    assert_eq!([&counts["orders"], &counts["without_job"]], [4, 0], "{report}");

    // A partition whose jobs do not fit into memory is read in slices, with the same result. How
    // large they are is looked at after every hundred messages, so these come one by one.
    for n in 0..300 {
        accept(&stack, status(&format!("alone-{n}"), "queued")).await;
    }
    wait_until_applied(&stack, &database).await;
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let snapshot = Snapshot::take(&database).await.unwrap();
    let whole = audit(&snapshot, &jetstream, 1_000_000, &Progress::default()).await.unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&steps);
    let progress = Progress::to(move |step| heard.lock().unwrap().push(step));
    let sliced = audit(&snapshot, &jetstream, 50, &progress).await.unwrap();
    // Whoever listens hears of every reading, and in the end of nothing that is left.
    let (done, left) = steps.lock().unwrap().iter().fold((0, 0), |(done, left), step| match step {
        Step::Remaining(amount) => (done, *amount),
        Step::Done(amount) => (done + amount, left - amount),
    });
    let held: u64 = whole.partitions.iter().map(|partition| partition.messages).sum();
    assert!(done > 2 * held && left == 0, "{done} of {held}, {left} left");
    assert_eq!(serde_json::to_value(&sliced).unwrap(), serde_json::to_value(&whole).unwrap());
}

/// Runs `ackline audit --json`; returns whether it found the system clean, and its report.
async fn run_audit(stack: &Stack) -> (bool, Value) {
    let mut process = stack.spawn(&ackline(stack, &["audit", "--json"])).unwrap();
    let code = process.wait(SOON).await.unwrap().code();
    let report: Value = serde_json::from_str(&process.log().stdout()).unwrap();
    assert_eq!(code, Some(if report["clean"] == true { 0 } else { 1 }), "{report}");
    (report["clean"] == true, report)
}

/// A change of the database that is wrong, and what the audit says of it.
type Tampering = (&'static str, &'static str);

const TAMPERINGS: [Tampering; 18] = [
    ("UPDATE jobs SET status = 'failed' WHERE id = 'load-1'", "status must be \"running\""),
    ("UPDATE jobs SET heartbeat_count = 8 WHERE id = 'load-2'", "heartbeat_count must be 7"),
    ("UPDATE jobs SET heartbeat_timeout_s = 5 WHERE id = 'load-2'", "heartbeat_timeout_s must be"),
    ("UPDATE jobs SET last_seq = last_seq + 1 WHERE id = 'load-3'", "last_seq must be"),
    ("UPDATE jobs SET region = 'moon' WHERE id = 'mended'", "region must be \"poison\""),
    ("UPDATE jobs SET heartbeat_count = 2 WHERE id = 'begun-by-a-heartbeat'", "heartbeat_count"),
    ("DELETE FROM jobs WHERE id = 'load-4'", "has no row in jobs"),
    ("DELETE FROM jobs WHERE id = 'begun-by-a-heartbeat'", "has no row in jobs"),
    (
        "INSERT INTO jobs (id, status, run_count, heartbeat_count, created_at, updated_at, partition, \
         first_seq, first_idx, last_seq, last_idx) SELECT 'made-up', status, run_count, \
         heartbeat_count, created_at, updated_at, partition, first_seq, first_idx, last_seq, last_idx FROM jobs WHERE id = 'load-5'",
        "but the stream tells of",
    ),
    ("DELETE FROM job_events WHERE job_id = 'load-5' AND kind = 'provisioning'", "was not applied"),
    ("DELETE FROM job_events WHERE kind = 'discard'", "was not carried out"),
    (
        "UPDATE job_events SET seq = seq + 1000000 WHERE job_id = 'load-6' AND kind = 'running'",
        "is in job_events, but not in the stream",
    ),
    (
        "UPDATE job_events SET outcome = 'ignored' WHERE job_id = 'load-7' AND kind = 'queued'",
        "outcome must be \"applied\"",
    ),
    (
        "UPDATE job_events SET from_status = 'failed' WHERE job_id = 'load-8' AND kind = 'running'",
        "the event before it led to provisioning",
    ),
    ("DELETE FROM dead_letters WHERE state = 'held'", "is in neither table"),
    ("DELETE FROM dead_letters WHERE job_id IS NULL", "is in neither table"),
    (
        "UPDATE dead_letters SET state = 'dead' WHERE state = 'discarded'",
        "must be discarded after 1 refusals, but is dead",
    ),
    ("UPDATE dead_letters SET job_id = 'load-9' WHERE state = 'discarded'", "holds something else"),
];

/// Copies of the three tables, to take a change back.
const SAVE: &str = "CREATE TABLE saved_jobs AS SELECT * FROM jobs; \
                    CREATE TABLE saved_events AS SELECT * FROM job_events; \
                    CREATE TABLE saved_letters AS SELECT * FROM dead_letters";
const RESTORE: &str = "DELETE FROM jobs; INSERT INTO jobs SELECT * FROM saved_jobs; \
                       DELETE FROM job_events; INSERT INTO job_events SELECT * FROM saved_events; \
                       DELETE FROM dead_letters; \
                       INSERT INTO dead_letters SELECT * FROM saved_letters";

on_each_database!(every_tampering_is_found);

async fn every_tampering_is_found(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let database = everything_happens(&stack, db).await;
    database.execute_unprepared(SAVE).await.unwrap();
    for (statement, words) in TAMPERINGS {
        let changed = database.execute_unprepared(statement).await.unwrap().rows_affected();
        assert!(changed > 0, "{statement}");
        let (clean, report) = run_audit(&stack).await;
        let differences = report["differences"].as_array().unwrap();
        let is_told = differences.iter().any(|one| one["what"].as_str().unwrap().contains(words));
        assert!(!clean && is_told, "{statement}: {report}");
        database.execute_unprepared(RESTORE).await.unwrap();
    }
    assert_audited(&stack).await;
}

#[tokio::test]
async fn a_live_system_whose_streams_are_trimmed_is_clean() {
    let stack = Stack::builder()
        .db(Db::Postgres)
        .partitions(2)
        .env("REPLAY_HORIZON", "1s")
        .start()
        .await
        .unwrap();
    let running = Load::new(stack.ingress.addr, stack.secret(), 300).start();
    let mut audits = 0;
    while running.accepted() < 2500 {
        assert_audited(&stack).await;
        audits += 1;
    }
    let report = running.finish().await.unwrap();
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    assert_exactly_once(&database, &report).await;
    assert!(audits > 0);

    // Once the streams are trimmed, the jobs that began before are covered in part: a break in
    // their events is found, and late heartbeats of jobs that were pruned are not held against it.
    let trimmed = async || {
        let report = assert_audited(&stack).await;
        (report["jobs_covered"] == 0).then_some(report)
    };
    let report = stack.wait_for("the streams are trimmed", SOON, trimmed).await;
    assert_eq!(report["jobs_partly_covered"], 300);
    let change = "UPDATE jobs SET status = 'failed' WHERE id = 'load-1'";
    database.execute_unprepared(change).await.unwrap();
    let (clean, report) = run_audit(&stack).await;
    assert!(!clean, "{report}");
    let words = "is the job's last event and led to running, but the job is failed";
    assert!(report["differences"].to_string().contains(words), "{report}");
    let change = "UPDATE jobs SET status = 'running' WHERE id = 'load-1'";
    database.execute_unprepared(change).await.unwrap();
    let change = "DELETE FROM job_events WHERE job_id = 'load-2'";
    database.execute_unprepared(change).await.unwrap();
    let (clean, report) = run_audit(&stack).await;
    assert!(!clean && report["differences"].to_string().contains("has no event"), "{report}");
}

#[tokio::test]
async fn what_other_rules_wrote_is_named_as_such() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let database = stack.db().await.unwrap();
    accept(&stack, status("old", "queued")).await;
    accept(&stack, status("new", "queued")).await;
    wait_until_applied(&stack, &database).await;
    for statement in [
        "UPDATE partitions SET rules_from_seq = 2",
        "UPDATE jobs SET region = 'as it was then' WHERE id = 'old'",
    ] {
        database.execute_unprepared(statement).await.unwrap();
    }
    let (clean, report) = run_audit(&stack).await;
    assert!(clean, "{report}");
    assert_eq!(report["other_rules"][0]["job_id"], "old");
    let change = "UPDATE jobs SET region = 'as it was then' WHERE id = 'new'";
    database.execute_unprepared(change).await.unwrap();
    assert!(!run_audit(&stack).await.0);

    // A worker of another version notes where its own rules begin.
    database.execute_unprepared("UPDATE partitions SET rules_version = 0").await.unwrap();
    accept(&stack, status("later", "queued")).await;
    wait_until_applied(&stack, &database).await;
    let row = partitions(&database).await.remove(0);
    assert_eq!((row.rules_version, row.rules_from_seq), (RULES_VERSION, 3));
}

#[tokio::test]
async fn a_stream_that_was_not_applied_is_not_audited() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    let database = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &database).await;
    assert!(stack.worker.process.terminate(Duration::from_secs(30)).await.unwrap().success());
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let config = jetstream.get_stream("CALLBACKS-1-00").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("CALLBACKS-1-00").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    let (code, log) = run(&stack, &ackline(&stack, &["audit", "--json"])).await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("is not the one that was applied: it was recreated"), "{log}");
}
