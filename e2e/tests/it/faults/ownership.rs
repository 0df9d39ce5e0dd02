//! Who owns a partition, and whether the stream is the one that was applied.

use async_nats::jetstream::{self, stream::Config};
use e2e::process::Process;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, TransactionTrait};
use worker::entity::job::Status;

use crate::expect::*;

#[tokio::test]
async fn a_batch_of_an_older_epoch_does_not_commit() {
    // Renewals are twenty minutes apart: only the fence can notice.
    let stack = Stack::builder().db(Db::Postgres).env("LEASE", "1h").start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    let row = wait_for_status(&stack, &db, "a", Status::Queued).await;

    // Another worker acquires the partition, and its deletion of the consumer gets lost.
    let postgres = stack.postgres.as_ref().unwrap();
    let acquire = format!(
        "UPDATE partitions SET epoch = epoch + 1, owner = 'another', \
         lease_until = clock_timestamp() + interval '1 hour' WHERE partition = {}",
        row.partition
    );
    postgres.psql(&acquire).await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    stack
        .wait_until("the first worker is fenced", SOON, async || {
            metric(&stack.worker, "ackline_worker_fences_total").await == 1.0
        })
        .await;
    assert_eq!(job(&db, "a").await.unwrap().status, Status::Queued);

    let expire = "UPDATE partitions SET lease_until = clock_timestamp() WHERE owner = 'another'";
    postgres.psql(expire).await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Provisioning).await;
    assert_eq!(events(&db).await.len(), 2);
}

#[tokio::test]
async fn a_batch_that_was_applied_meanwhile_does_not_commit() {
    // Renewals are twenty minutes apart: nothing else waits for the row.
    let stack =
        Stack::builder().db(Db::Postgres).partitions(1).env("LEASE", "1h").start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;

    // A commit of the same owner, whose outcome it does not know, moves the checkpoint while its
    // next batch waits for the row.
    let lost = db.begin().await.unwrap();
    lost.execute_unprepared("UPDATE partitions SET applied_seq = 2").await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    let applied = first_stream(&stack).await.get_raw_message(2).await.unwrap();
    let msg_id = applied.headers.get("Nats-Msg-Id").unwrap().as_str();
    let set_id = format!("UPDATE partitions SET applied_msg_id = '{msg_id}'");
    lost.execute_unprepared(&set_id).await.unwrap();
    lost.commit().await.unwrap();

    accept(&stack, status("a", "running")).await;
    wait_until_applied(&stack, &db).await;
    let seqs: Vec<i64> = events(&db).await.into_iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 3], "the second message was applied by another commit");
    let fences = metric(&stack.worker, "ackline_worker_fences_total").await;
    assert_eq!(fences, 1.0, "the batch was fenced");
}

#[tokio::test]
async fn a_worker_hands_over_when_it_ends() {
    let mut stack = Stack::builder().db(Db::Postgres).env("LEASE", "1h").start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;
    let ended = stack.worker.process.terminate(SOON).await.unwrap();
    assert!(ended.success());
    assert!(
        partitions(&db).await.iter().all(|row| row.owner.is_none() && row.lease_until.is_none())
    );
    // Its leases would run for an hour.
    stack.start_worker().await.unwrap();
    accept(&stack, status("a", "running")).await;
    wait_for_status(&stack, &db, "a", Status::Running).await;
}

#[tokio::test]
async fn sqlite_has_one_worker() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let second = stack.program("ackline-worker").unwrap().env("OPS_LISTEN", "127.0.0.1:0");
    let (code, why) = run(&stack, &second).await;
    assert!(code == 1 && why.contains("another worker process runs on this SQLite"), "{why}");
    assert!(stack.worker.process.is_running());
}

pub(crate) async fn stopped(stack: &Stack, reason: &str) {
    let db = stack.db().await.unwrap();
    stack
        .wait_until(&format!("the partition stops: {reason}"), SOON, async || {
            let rows = partitions(&db).await;
            rows[0].stopped_reason.as_ref().is_some_and(|stopped| stopped.contains(reason))
        })
        .await;
}

/// One partition with three applied callbacks, and the worker ended.
pub(crate) async fn with_three_applied() -> (Stack, jetstream::Context, Config) {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    for step in ["queued", "provisioning", "running"] {
        accept(&stack, status("a", step)).await;
    }
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let stream = jetstream.get_stream("CALLBACKS-1-00").await.unwrap();
    let config = stream.cached_info().config.clone();
    (stack, jetstream, config)
}

/// `ackline partitions accept`, which must be refused: why.
pub(crate) async fn refused_to_accept(stack: &Stack) -> String {
    let (code, why) = run(stack, &ackline(stack, &["partitions", "accept", "0", "--yes"])).await;
    assert_eq!(code, 1, "{why}");
    why
}

#[tokio::test]
async fn a_recreated_stream_is_not_taken_for_the_one_that_was_applied() {
    let (mut stack, jetstream, config) = with_three_applied().await;
    jetstream.delete_stream("CALLBACKS-1-00").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    until_accepted(&stack, status("b", "queued")).await;
    stack.start_worker().await.unwrap();
    stopped(&stack, "it was recreated").await;
    let reason = refused_to_accept(&stack).await;
    assert!(reason.contains("an empty database"), "{reason}");
    let db = stack.db().await.unwrap();
    assert!(job(&db, "b").await.is_none(), "nothing was skipped to go on");
    assert_eq!(partitions(&db).await[0].applied_seq, 3);
    assert_eq!((events(&db).await.len(), jobs(&db).await.len()), (3, 1), "nothing was undone");
    assert!(stream_ends(&stack).await[0] > 0, "what was accepted since waits");
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn migrating_twice_and_at_once_is_harmless_and_the_number_of_partitions_stays() {
    let stack = Stack::builder().db(Db::Postgres).partitions(4).start().await.unwrap();
    let migrate = |partitions: &'static str| {
        let program = stack.program("ackline").unwrap().args(["migrate"]);
        stack.spawn(&program.env("PARTITIONS", partitions)).unwrap()
    };
    let mut running: Vec<Process> = (0..8).map(|_| migrate("4")).collect();
    for process in &mut running {
        assert!(process.wait(SOON).await.unwrap().success(), "{}", process.log().text());
    }
    let mut other = migrate("8");
    assert_eq!(other.wait(SOON).await.unwrap().code(), Some(1));
    assert!(other.log().text().contains("there are 4 partitions"), "{}", other.log().text());
    assert_eq!(partitions(&stack.db().await.unwrap()).await.len(), 4);
}
