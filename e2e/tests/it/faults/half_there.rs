//! Workers that are half there: one that hears only the database, and one that never lives for long.

use e2e::proxy::{Flow, Proxy};
use e2e::stack::{Db, Stack, Worker};
use rstest::rstest;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, QueryFilter};
use shared::partition::Layout;
use worker::entity::worker;

use super::scale::{spread, wait_for_spread};
use crate::expect::*;

/// What a worker shows of a partition's lag, in messages.
async fn shown_lag(worker: &Worker, partition: u16) -> f64 {
    let partition = format!("{partition:02}");
    series(worker.ops, "ackline_worker_lag_messages", &[("partition", &partition)]).await
}

#[rstest]
#[case::silently(false)]
#[case::with_an_error(true)]
#[tokio::test]
async fn a_worker_that_hears_only_the_database_gives_its_partitions_back(#[case] is_cut: bool) {
    let builder = Stack::builder().db(Db::Postgres).partitions(8).env("LEASE", "2s");
    let stack = builder.start().await.unwrap();
    let db = stack.db().await.unwrap();
    let proxy = Proxy::start(stack.nats.node(0).address()).await.unwrap();
    let behind = format!("nats://{}", proxy.address());
    let env = [("NATS_URL", behind.as_str()), ("WORKER_ID", "behind")];
    let second = stack.start_worker_with(&env, &[]).await.unwrap();
    wait_for_spread(&stack, &db, &[4, 4]).await;

    proxy.to_server(Flow::Swallow);
    proxy.to_client(Flow::Swallow);
    if is_cut {
        proxy.cut();
    }
    for number in 0..64 {
        accept(&stack, status(&format!("job-{number}"), "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    wait_for_spread(&stack, &db, &[8]).await;
    let answer = e2e::http::get(second.ops, "/readyz").await.unwrap();
    let (status, text) = (answer.status, answer.text());
    assert!(status == 503 && text.contains("ACK-404: the broker has not answered"), "{text}");
    assert!(is_ready(stack.worker.ops).await);
    // What it can't see it does not show as 0.
    stack
        .wait_until("it shows that it sees no lag", SOON, async || {
            shown_lag(&second, 0).await.is_nan()
        })
        .await;

    proxy.to_server(Flow::Pass);
    proxy.to_client(Flow::Pass);
    wait_for_spread(&stack, &db, &[4, 4]).await;
    assert!(is_ready(second.ops).await);
    assert_audited(&stack).await;
}

/// The owner may be blind: whoever sees the lag tells it.
#[tokio::test]
async fn every_worker_tells_the_lag_of_all_partitions() {
    let builder = Stack::builder().db(Db::Postgres).partitions(2);
    let stack = builder.env("HEARTBEAT_TIMEOUT", "6s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    wait_for_spread(&stack, &db, &[2]).await;
    db.execute_unprepared(
        "UPDATE partitions SET epoch = epoch + 1, owner = 'blind', \
         lease_until = clock_timestamp() + interval '1 hour' WHERE partition = 1",
    )
    .await
    .unwrap();
    let waits = id_in(Layout::new(1, 2).partition(1).unwrap(), "waits");
    accept(&stack, status(&waits, "queued")).await;
    stack
        .wait_until("the other worker shows that it waits", SOON, async || {
            shown_lag(&stack.worker, 1).await == 1.0
        })
        .await;
    let labels = [("partition", "01")];
    assert!(series(stack.worker.ops, "ackline_worker_lag_seconds", &labels).await > 0.0);
    assert!(shown_lag(&stack.worker, 0).await.abs() < 0.5);
}

/// How often the worker of this name has renewed its life so far, as far as it was looked at.
async fn alive_until(db: &DatabaseConnection, name: &str) -> Vec<worker::Model> {
    worker::Entity::find().filter(worker::Column::Name.eq(name)).all(db).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_crashes_after_each_start_takes_nothing_from_another() {
    let builder = Stack::builder().db(Db::Postgres).env("LEASE", "6s");
    let stack = builder.start().await.unwrap();
    let db = stack.db().await.unwrap();
    wait_for_spread(&stack, &db, &[16]).await;
    let settled = async || {
        let rows = alive_until(&db, "worker").await;
        rows.iter().any(|row| row.alive_until - row.alive_since > chrono::TimeDelta::seconds(12))
    };
    stack.wait_until("the first has lived for a lease", SOON, settled).await;
    for round in 0..3 {
        let mut second = stack.start_worker_with(&[("WORKER_ID", "crashes")], &[]).await.unwrap();
        let until = alive_until(&db, "worker").await[0].alive_until;
        stack
            .wait_until("both have divided the partitions", SOON, async || {
                alive_until(&db, "crashes").await.len() > round
                    && alive_until(&db, "worker").await[0].alive_until > until
            })
            .await;
        second.process.kill9();
        assert_eq!(spread(&db).await, [16], "round {round}");
        accept(&stack, status(&format!("job-{round}"), "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    // One that lives gets its part.
    let _lives = stack.start_worker_with(&[("WORKER_ID", "lives")], &[]).await.unwrap();
    wait_for_spread(&stack, &db, &[8, 8]).await;
    assert_audited(&stack).await;
}
