//! The database goes away, for a moment and for long, while callbacks arrive.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::Info, consumer::pull::Config};
use e2e::load::{Load, Report, Running};
use e2e::stack::{Db, Stack, Worker};
use futures::TryStreamExt;
use rstest::rstest;
use sea_orm::ConnectionTrait;
use shared::partition::Layout;
use worker::entity::job::Status;

use crate::expect::*;

/// Few, so that each has much to do.
const PARTITIONS: u16 = 3;

/// A stack on PostgreSQL with three workers, each of which owns its share. With a long lease nobody
/// takes a partition over while the database hangs, and its owner must cope with the broker.
async fn three_workers(partitions: u16, lease: &str) -> (Stack, [Worker; 2]) {
    let builder = Stack::builder().db(Db::Postgres).partitions(partitions).env("LEASE", lease);
    let stack = builder.start().await.unwrap();
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    let third = stack.start_worker_with(&[("WORKER_ID", "third")], &[]).await.unwrap();
    let db = stack.db().await.unwrap();
    stack
        .wait_until("three workers own everything", SOON, async || {
            let rows = crate::expect::partitions(&db).await;
            let owners: Option<HashSet<_>> = rows.into_iter().map(|row| row.owner).collect();
            owners.is_some_and(|owners| owners.len() == 3)
        })
        .await;
    (stack, [second, third])
}

async fn load_reaches(stack: &Stack, running: &Running, count: u64) {
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= count).await;
}

/// Nobody had to start anything again, and each still ends in order.
async fn assert_outlived(stack: &mut Stack, others: [Worker; 2]) {
    for mut worker in others {
        assert!(worker.process.is_running(), "{}", worker.process.log().tail(20));
        assert!(worker.process.terminate(SOON).await.unwrap().success());
    }
    assert!(stack.ingress.process.is_running() && stack.worker.process.is_running());
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
}

#[rstest]
#[case::once(1)]
#[ignore = "long: make test-faults"]
#[case::many_times(12)]
#[tokio::test]
async fn a_database_killed_under_load_loses_and_repeats_nothing(#[case] kills: u64) {
    let (mut stack, others) = three_workers(16, "1s").await;
    let jobs = 100 * kills as usize;
    let running = Load::new(stack.ingress.addr, stack.secret(), jobs).start();
    for kill in 0..kills {
        load_reaches(&stack, &running, kill * 1000 + 150).await;
        stack.postgres.as_mut().unwrap().process.kill9();
        // Ingress has no need of it.
        load_reaches(&stack, &running, kill * 1000 + 450).await;
        stack.postgres.as_mut().unwrap().restart().await.unwrap();
    }
    let report = running.finish().await.unwrap();
    assert_eq!(report.accepted() as u64, kills * 1000);
    println!("{} callbacks, {kills} kills, {} retries", report.accepted(), report.retries);
    assert_unharmed(stack, others, &report).await;
}

/// The broker's word on the consumers of every partition, by partition. It is made impatient with
/// those that are there: what takes it an hour, or five minutes, then takes it a second.
async fn consumers(stack: &Stack) -> Vec<Vec<Info>> {
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let mut all = Vec::new();
    for partition in Layout::new(1, PARTITIONS).all() {
        let stream = jetstream.get_stream(partition.stream()).await.unwrap();
        let consumers: Vec<Info> = stream.consumers().try_collect().await.unwrap();
        let second = Duration::from_secs(1);
        for Info { config, name, .. } in &consumers {
            if config.ack_wait > second {
                let update = Config {
                    name: Some(name.clone()),
                    deliver_policy: config.deliver_policy,
                    ack_policy: config.ack_policy,
                    max_deliver: config.max_deliver,
                    max_ack_pending: config.max_ack_pending,
                    num_replicas: config.num_replicas,
                    memory_storage: config.memory_storage,
                    ack_wait: second,
                    inactive_threshold: second,
                    ..Config::default()
                };
                // Its worker may just have replaced it.
                let _ = stream.update_consumer(update).await;
            }
        }
        all.push(consumers);
    }
    all
}

/// The database hangs: soon a batch of every partition waits for this table, for no lock.
async fn hang(stack: &Stack) {
    let hang = "CREATE TABLE hang AS SELECT 1;
        CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM hang) LOOP PERFORM pg_sleep(0.05); END LOOP;
            RETURN NULL;
        END $$;
        CREATE TRIGGER hang BEFORE INSERT ON job_events EXECUTE FUNCTION hang();";
    stack.db().await.unwrap().execute_unprepared(hang).await.unwrap();
}

async fn go_on(stack: &Stack) {
    stack.db().await.unwrap().execute_unprepared("DELETE FROM hang").await.unwrap();
}

async fn until_forgotten(stack: &Stack) {
    stack
        .wait_until("the broker knows no consumer", SOON, async || {
            consumers(stack).await.iter().all(Vec::is_empty)
        })
        .await;
}

/// A load in few messages at a time, so that there are many.
fn trickle(stack: &Stack, prefix: &str) -> Running {
    let mut load = Load::new(stack.ingress.addr, stack.secret(), 40);
    load.prefix = prefix.to_owned();
    load.connections = 6;
    load.start()
}

async fn assert_unharmed(mut stack: Stack, others: [Worker; 2], report: &Report) {
    assert_all_applied(&stack, report).await;
    assert_outlived(&mut stack, others).await;
    assert_audited(&stack).await;
}

#[tokio::test]
async fn a_database_that_hangs_until_messages_come_again_repeats_nothing() {
    let (stack, others) = three_workers(PARTITIONS, "9s").await;
    let running = trickle(&stack, "during");
    load_reaches(&stack, &running, 60).await;
    hang(&stack).await;
    let mut again = [false; PARTITIONS as usize];
    stack
        .wait_until("the broker delivers again what the workers have", SOON, async || {
            for (again, of) in again.iter_mut().zip(consumers(&stack).await) {
                *again |= of.iter().any(|consumer| consumer.num_redelivered > 0);
            }
            again == [true; PARTITIONS as usize]
        })
        .await;
    go_on(&stack).await;
    let report = running.finish().await.unwrap();
    assert_unharmed(stack, others, &report).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_database_that_hangs_until_the_broker_forgets_its_readers_loses_nothing() {
    let (stack, others) = three_workers(PARTITIONS, "20s").await;
    let running = trickle(&stack, "during");
    load_reaches(&stack, &running, 60).await;
    hang(&stack).await;
    let mut report = running.finish().await.unwrap();
    // What comes again uses up what the workers have asked for, and they ask for no more.
    until_forgotten(&stack).await;
    go_on(&stack).await;
    report.jobs.extend(trickle(&stack, "after").finish().await.unwrap().jobs);
    assert_unharmed(stack, others, &report).await;
}

#[tokio::test]
async fn a_database_that_is_stopped_until_nobody_reads_loses_nothing() {
    let (mut stack, others) = three_workers(PARTITIONS, "1s").await;
    let running = trickle(&stack, "during");
    load_reaches(&stack, &running, 60).await;
    stack.postgres.as_mut().unwrap().stop_server().await.unwrap();
    let report = running.finish().await.unwrap();
    until_forgotten(&stack).await;
    stack.postgres.as_mut().unwrap().restart().await.unwrap();
    assert_unharmed(stack, others, &report).await;
}

#[tokio::test]
async fn a_worker_that_meets_a_dying_database_at_its_start_waits_for_it() {
    let mut stack = Stack::builder().db(Db::Postgres).env("LEASE", "1s").start().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    // It is connected, and asks for the schema, when the database dies.
    let _lock = lock_table(&stack.db().await.unwrap(), "seaql_migrations").await;
    let program = stack.program("ackline-worker").unwrap().env("OPS_LISTEN", "127.0.0.1:0");
    let mut worker = stack.spawn(&program).unwrap();
    wait_until_blocked(&stack, "seaql_migrations").await;
    stack.postgres.as_mut().unwrap().restart().await.unwrap();

    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &stack.db().await.unwrap(), "a", Status::Queued).await;
    assert!(worker.terminate(SOON).await.unwrap().success());
    assert_audited(&stack).await;
}
