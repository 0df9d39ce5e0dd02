//! The database or the stream is taken back to a backup under a living owner.

use std::path::{Path, PathBuf};

use e2e::load::{Load, Report};
use e2e::stack::{Db, Stack};

use crate::expect::*;
use crate::faults::ownership::{copy, stopped};

#[tokio::test]
async fn a_database_restored_under_its_owner_is_read_on_from_its_checkpoints() {
    let stack = Stack::builder().db(Db::Postgres).env("LEASE", "1s").start().await.unwrap();
    let postgres = stack.postgres.as_ref().unwrap();
    let running = Load::new(stack.ingress.addr, stack.secret(), 60).start();
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= 200).await;
    postgres.dump("backup").await.unwrap();
    let report = running.finish().await.unwrap();
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;

    // From here on no callback arrives that would run into the fence.
    let before = partitions(&db).await;
    postgres.restore("backup").await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_exactly_once(&db, &report).await;
    assert_eq!(report.accepted(), 600);
    let after = partitions(&db).await;
    let anew = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| after.owner == before.owner && after.epoch == before.epoch + 1);
    let anew = anew.count();
    assert!(anew > 0, "the backup is as new as the database");
    println!("{} callbacks, {anew} of 16 partitions were taken back", report.accepted());
    assert_audited(&stack).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_database_restored_over_and_over_under_load_ends_as_if_nothing_had_happened() {
    let stack = Stack::builder().db(Db::Postgres).env("LEASE", "1s").start().await.unwrap();
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    let third = stack.start_worker_with(&[("WORKER_ID", "third")], &[]).await.unwrap();
    let postgres = stack.postgres.as_ref().unwrap();
    let mut load = Load::new(stack.ingress.addr, stack.secret(), 1000);
    load.connections = 4;
    let running = load.start();
    for round in 0..4 {
        let accepted = async |count| {
            stack.wait_until("the load goes on", SOON, async || running.accepted() >= count).await;
        };
        accepted(2000 * round + 500).await;
        postgres.dump("backup").await.unwrap();
        accepted(2000 * round + 1500).await;
        // It fails as a whole where it and a batch wait for each other.
        stack
            .wait_until("it is restored", SOON, async || postgres.restore("backup").await.is_ok())
            .await;
    }
    let report = running.finish().await.unwrap();
    assert_all_applied(&stack, &report).await;
    assert_eq!(report.accepted(), 10_000);
    println!("{} callbacks, 4 restores, 3 workers", report.accepted());
    drop((second, third));
}

/// A broker whose one stream is applied beyond a backup of it.
struct Beyond {
    stack: Stack,
    backup: PathBuf,
    report: Report,
    events: usize,
}

async fn beyond_a_backup(lease: &str) -> Beyond {
    let stack = Stack::builder().partitions(1).env("LEASE", lease).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let report = Load::new(stack.ingress.addr, stack.secret(), 8).run().await.unwrap();
    wait_until_applied(&stack, &db).await;
    // As a snapshot of its volume would be.
    stack.nats.pause();
    let backup = stack.dir().join("backup");
    copy(&store(&stack), &backup);
    stack.nats.resume();
    for _ in 0..2 {
        until_accepted(&stack, status("b", "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    let events = events(&db).await.len();
    Beyond { stack, backup, report, events }
}

fn store(stack: &Stack) -> PathBuf {
    stack.dir().join("nats")
}

async fn go_back_to(stack: &mut Stack, backup: &Path) {
    stack.nats.kill9();
    std::fs::remove_dir_all(store(stack)).unwrap();
    copy(backup, &store(stack));
    stack.nats.restart().await.unwrap();
}

/// What was applied stays as it is, and nothing that came later was skipped to go on.
async fn assert_untouched(beyond: &Beyond) {
    let db = beyond.stack.db().await.unwrap();
    assert!(job(&db, "c").await.is_none());
    assert_eq!(events(&db).await.len(), beyond.events);
    assert_load_exactly_once(&db, &beyond.report, &["b"]).await;
    assert_eq!(beyond.report.accepted(), 80);
}

#[tokio::test]
async fn a_stream_restored_under_its_owner_stops_its_partition_before_anything_arrives() {
    let mut beyond = beyond_a_backup("1s").await;
    go_back_to(&mut beyond.stack, &beyond.backup).await;
    stopped(&beyond.stack, "it lost its tail").await;
    until_accepted(&beyond.stack, status("c", "queued")).await;
    assert_untouched(&beyond).await;
}

#[tokio::test]
async fn new_messages_at_applied_sequences_of_a_restored_stream_stop_their_partition() {
    // No renewal tells the owner, and it wakes up when others have taken the places of what it has
    // applied.
    let mut beyond = beyond_a_backup("1h").await;
    beyond.stack.worker.process.stop();
    go_back_to(&mut beyond.stack, &beyond.backup).await;
    for _ in 0..4 {
        until_accepted(&beyond.stack, status("c", "queued")).await;
    }
    beyond.stack.worker.process.cont();
    stopped(&beyond.stack, "is not the one that was applied").await;
    assert_untouched(&beyond).await;
}
