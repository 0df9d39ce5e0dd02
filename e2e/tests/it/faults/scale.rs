//! Many workers share the partitions, many ingresses take callbacks, and they come and go.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use e2e::load::Load;
use e2e::stack::{Db, Ingress, Stack};
use rstest::rstest;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, QueryFilter};
use worker::entity::worker;

use super::figures::{conclude, endless, goes_on};
use crate::expect::*;

/// How many partitions each owner has, most first.
pub(crate) async fn spread(db: &DatabaseConnection) -> Vec<usize> {
    let mut owned: HashMap<String, usize> = HashMap::new();
    for row in partitions(db).await {
        *owned.entry(row.owner.unwrap_or_default()).or_default() += 1;
    }
    assert!(owned.len() <= 16);
    // A partition that is just being handed over belongs to nobody.
    let nobody = owned.remove("").unwrap_or_default();
    let mut counts: Vec<usize> = owned.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    if nobody > 0 { vec![] } else { counts }
}

pub(crate) async fn wait_for_spread(stack: &Stack, db: &DatabaseConnection, expected: &[usize]) {
    stack
        .wait_until(&format!("the partitions are spread {expected:?}"), SOON, async || {
            spread(db).await == expected
        })
        .await;
}

/// The figures are printed, and judged nowhere.
#[tokio::test]
async fn the_partitions_of_a_killed_worker_are_taken_over() {
    let mut stack = Stack::builder().db(Db::Postgres).env("LEASE", "2s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    wait_for_spread(&stack, &db, &[8, 8]).await;
    let running = Load::new(stack.ingress.addr, stack.secret(), 100).start();
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= 300).await;
    stack.worker.process.kill9();
    let killed = Instant::now();
    wait_for_spread(&stack, &db, &[16]).await;
    println!("everything was taken over {:?} after the kill; the lease is 2 s", killed.elapsed());
    let report = running.finish().await.unwrap();
    assert_all_applied(&stack, &report).await;
    assert_eq!(report.accepted(), 1000);

    let took =
        async |part| metric(&second, &format!("ackline_worker_takeover_seconds_{part}")).await;
    let (sum, count) = (took("sum").await, took("count").await);
    assert!(count >= 16.0, "each take-over is measured");
    println!("{count} partitions were taken over, each in {:.1} ms", 1000.0 * sum / count);
}

/// One place is left for it, and all other partitions are somebody else's.
#[tokio::test]
async fn the_last_free_partition_is_found_at_a_renewal() {
    let builder = Stack::builder().db(Db::Postgres).partitions(64).env("LEASE", "2s");
    let mut stack = builder.start().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let db = stack.db().await.unwrap();
    db.execute_unprepared(
        "INSERT INTO workers (id, name, alive_since, alive_until) \
         SELECT 'other-' || n, 'other', clock_timestamp(), clock_timestamp() + interval '1 hour' \
         FROM generate_series(1, 63) AS n; \
         UPDATE partitions SET owner = 'other-' || partition, \
         lease_until = clock_timestamp() + interval '1 hour' WHERE partition <> 40",
    )
    .await
    .unwrap();
    stack.start_worker().await.unwrap();
    let mut renewals = HashSet::new();
    stack
        .wait_until("the free partition is taken", SOON, async || {
            let workers = worker::Entity::find().filter(worker::Column::Name.eq("worker"));
            renewals.extend(workers.all(&db).await.unwrap().into_iter().map(|row| row.alive_until));
            partitions(&db).await[40].owner.is_some()
        })
        .await;
    assert!(renewals.len() <= 4, "{} renewals passed", renewals.len());
}

async fn three_workers() -> Stack {
    Stack::builder().db(Db::Postgres).env("LEASE", "1s").start().await.unwrap()
}

#[tokio::test]
async fn partitions_spread_over_workers_that_come_and_go_under_load() {
    let stack = three_workers().await;
    let db = stack.db().await.unwrap();
    wait_for_spread(&stack, &db, &[16]).await;
    let running = Load::new(stack.ingress.addr, stack.secret(), 400).start();

    let mut others = Vec::new();
    for name in ["second", "third", "fourth"] {
        others.push(stack.start_worker_with(&[("WORKER_ID", name)], &[]).await.unwrap());
    }
    wait_for_spread(&stack, &db, &[4, 4, 4, 4]).await;
    for mut worker in others {
        assert!(worker.process.terminate(SOON).await.unwrap().success());
    }
    wait_for_spread(&stack, &db, &[16]).await;

    let report = running.finish().await.unwrap();
    assert_all_applied(&stack, &report).await;
    assert_eq!(report.accepted(), 4000);
}

#[rstest]
#[case::twice(2)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(6)]
#[tokio::test]
async fn workers_that_are_killed_lose_and_repeat_nothing(#[case] kills: u64) {
    let stack = three_workers().await;
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    let third = stack.start_worker_with(&[("WORKER_ID", "third")], &[]).await.unwrap();
    let mut workers = [("second", second), ("third", third)];
    let jobs = 60 * kills as usize;
    let running = Load::new(stack.ingress.addr, stack.secret(), jobs).start();
    for round in 1..=kills {
        stack
            .wait_until("the load goes on", SOON, async || running.accepted() >= round * 550)
            .await;
        // Under its old name it simply works again.
        let (name, worker) = &mut workers[round as usize % 2];
        worker.process.kill9();
        *worker = stack.start_worker_with(&[("WORKER_ID", name)], &[]).await.unwrap();
    }
    let report = running.finish().await.unwrap();
    assert_all_applied(&stack, &report).await;
    println!("{} callbacks, {kills} kills, {} retries", report.accepted(), report.retries);
}

/// How many callbacks an ingress has accepted.
async fn accepted(ingress: &Ingress) -> f64 {
    series(ingress.ops, "ackline_ingress_accepted_total", &[]).await
}

/// Each callback of a job goes through another ingress than the one before it, and two of three
/// ingresses end and start again.
#[rstest]
#[case::twice(2)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(20)]
#[tokio::test]
async fn ingresses_come_and_go_under_load(#[case] rounds: usize) {
    let stack = three_workers().await;
    let mut load = endless(&stack, 8);
    load.rotate = true;
    let running = load.start();
    for _ in 0..rounds {
        goes_on(&stack, &running, 100).await;
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(stack.start_ingress_with(&[], &[]).await.unwrap());
        }
        let [second, third] = &mut others[..] else { unreachable!() };
        running.retarget(vec![stack.ingress.addr, second.addr, third.addr]);
        goes_on(&stack, &running, 300).await;
        // Senders are still sent to them when they end, and only then no more.
        for ingress in [second, third] {
            assert!(accepted(ingress).await > 0.0);
            assert!(ingress.process.terminate(SOON).await.unwrap().success());
        }
        running.retarget(vec![stack.ingress.addr]);
    }
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, &format!("{rounds} times 1, 3 and 1 ingresses"), &[]).await;
}
