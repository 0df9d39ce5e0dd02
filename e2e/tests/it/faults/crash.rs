//! The worker is killed with `kill -9` wherever it hurts.

use e2e::load::Load;
use e2e::stack::{Builder, Db, Stack};
use futures::StreamExt;
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use worker::entity::job::Status;

use crate::expect::*;

/// Kills the worker again and again while callbacks arrive; then everything has taken effect
/// exactly once. The rate is printed for a first look, and judged nowhere.
async fn killed_under_load(stack: &mut Stack, jobs: usize) {
    let running = Load::new(stack.ingress.addr, stack.secret(), jobs).start();
    let all = (jobs * 10) as u64;
    for part in 1..=5 {
        stack
            .wait_until("the load goes on", SOON, async || running.accepted() >= all * part / 6)
            .await;
        stack.worker.process.kill9();
        stack.start_worker().await.unwrap();
    }
    let report = running.finish().await.unwrap();
    assert_all_applied(stack, &report).await;
    assert_eq!(report.accepted(), jobs * 10);
    // Whoever comes back works on under its old name.
    let listed = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    let owners: Vec<_> = listed.as_array().unwrap().iter().map(|row| &row["owner_name"]).collect();
    assert_eq!(owners, ["provisioner-1"; 16]);
    println!(
        "{} callbacks accepted, {:.0}/s, p50 {:?}, p99 {:?}, {} retries, 5 kills",
        report.accepted(),
        report.rate(),
        report.latency(0.5),
        report.latency(0.99),
        report.retries
    );
}

fn killable(db: Db, lease: &str) -> Builder {
    Stack::builder().db(db).env("LEASE", lease).env("WORKER_ID", "provisioner-1")
}

on_each_database!(a_worker_killed_under_load_applies_exactly_once);

async fn a_worker_killed_under_load_applies_exactly_once(db: Db) {
    // SQLite's file has one owner, who waits for nothing.
    let lease = if db == Db::Sqlite { "1h" } else { "1s" };
    let mut stack = killable(db, lease).start().await.unwrap();
    killed_under_load(&mut stack, 120).await;
}

on_each_database!(a_worker_killed_between_commit_and_ack_applies_once);

/// The broker never gets an ack, so every kill finds each commit between itself and its ack.
async fn a_worker_killed_between_commit_and_ack_applies_once(db: Db) {
    let deny_acks = r#"
        authorization {
            users: [{ user: deaf, password: deaf, permissions: { publish: { deny: ["$JS.ACK.>"] } } }]
        }
        no_auth_user: deaf
    "#;
    let mut stack = killable(db, "1s").nats_config(deny_acks).start().await.unwrap();
    killed_under_load(&mut stack, 60).await;

    let jetstream = async_nats::jetstream::new(stack.nats.client().await.unwrap());
    let database = stack.db().await.unwrap();
    for row in partitions(&database).await.iter().filter(|row| row.applied_seq > 0) {
        let stream = format!("CALLBACKS-1-{:02}", row.partition);
        let name = format!("worker-{}-{}", row.epoch, row.owner.as_ref().unwrap());
        let stream = jetstream.get_stream(stream).await.unwrap();
        let consumer = stream.consumer_info(name).await.unwrap();
        assert_eq!(consumer.ack_floor.consumer_sequence, 0, "an ack got through");
        assert!(consumer.num_ack_pending > 0, "nothing was delivered");
    }
}

#[tokio::test]
async fn a_worker_killed_before_its_commit_leaves_nothing_and_applies_once() {
    let mut stack = Stack::builder().db(Db::Postgres).env("LEASE", "1s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;

    // The batch has passed its fence and waits for this table when it is killed.
    let lock = lock_table(&db, "job_events").await;
    accept(&stack, status("a", "provisioning")).await;
    accept(&stack, status("a", "running")).await;
    wait_until_blocked(&stack, "job_events").await;
    stack.worker.process.kill9();
    lock.rollback().await.unwrap();
    stack
        .wait_until("its transaction is gone", SOON, async || {
            let open = "SELECT count(*) FROM pg_stat_activity \
                        WHERE application_name = 'ackline-worker' AND xact_start IS NOT NULL";
            stack.postgres.as_ref().unwrap().psql(open).await.unwrap().trim() == "0"
        })
        .await;
    assert_eq!(job(&db, "a").await.unwrap().status, Status::Queued, "nothing was applied");
    let applied: Vec<i64> = partitions(&db).await.iter().map(|row| row.applied_seq).collect();
    assert_eq!(applied.iter().sum::<i64>(), 1, "the checkpoint did not move");

    stack.start_worker().await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Running).await;
    let statuses: Vec<_> = events(&db).await.into_iter().map(|event| event.to_status).collect();
    assert_eq!(statuses, [Status::Queued, Status::Provisioning, Status::Running].map(Some));
}

#[tokio::test]
async fn a_batch_is_acked_only_after_its_commit() {
    let stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;
    let client = stack.nats.client().await.unwrap();
    let mut said = client.subscribe("$JS.>").await.unwrap();
    client.flush().await.unwrap();

    // The batch waits for this table when its connection is ended. The worker then deletes its
    // consumer on the connection that its acks go by, so that an earlier ack comes before.
    let lock = lock_table(&db, "job_events").await;
    accept(&stack, status("a", "provisioning")).await;
    let end = Statement::from_string(
        DatabaseBackend::Postgres,
        "SELECT pg_terminate_backend(pid) FROM pg_locks \
         WHERE NOT granted AND relation = 'job_events'::regclass",
    );
    stack
        .wait_until("the worker's transaction is ended", SOON, async || {
            db.query_one_raw(end.clone()).await.unwrap().is_some()
        })
        .await;
    let acked_2 = |subject: &str| {
        subject.starts_with("$JS.ACK.CALLBACKS-1-00.") && subject.split('.').nth(5) == Some("2")
    };
    let mut next = async || {
        let message = tokio::time::timeout(SOON, said.next()).await.expect("the worker goes on");
        message.unwrap().subject.to_string()
    };
    loop {
        let subject = next().await;
        assert!(!acked_2(&subject), "acked before the commit: {subject}");
        if subject.starts_with("$JS.API.CONSUMER.DELETE.CALLBACKS-1-00.") {
            break;
        }
    }
    lock.rollback().await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Provisioning).await;
    while !acked_2(&next().await) {}
}
