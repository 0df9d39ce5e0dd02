//! The broker goes away and comes back.

use e2e::stack::{Db, Stack};

use crate::expect::*;

#[tokio::test]
async fn ingress_refuses_while_the_broker_is_gone_and_recovers_without_a_restart() {
    let mut stack = Stack::builder().env("PUBLISH_DEADLINE", "2s").start().await.unwrap();
    accept(&stack, status("before", "queued")).await;

    stack.nats.kill9();
    let answer = stack.post(status("during", "queued")).await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    stack
        .wait_until("ingress says that it is not ready", SOON, async || {
            let ready = e2e::http::get(stack.ingress.ops, "/readyz").await;
            ready.is_ok_and(|answer| answer.status == 503)
        })
        .await;
    for _ in 0..20 {
        let answer = stack.post(status("during", "queued")).await.unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, r#"{"error":"Broker not available"}"#)
        );
    }

    stack.nats.restart().await.unwrap();
    stack
        .wait_until("callbacks are accepted again", SOON, async || {
            stack.post(status("after", "queued")).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    assert!(stack.ingress.process.is_running());

    // The first callback after the kill may have been on its way; the others were refused before
    // their bodies were read, and nothing may come out of a queue now.
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let ids: Vec<String> = events(&db).await.into_iter().map(|event| event.job_id).collect();
    assert!(ids.iter().filter(|id| *id == "during").count() <= 1, "{ids:?}");
    assert_eq!(ids.iter().filter(|id| *id == "before").count(), 1, "{ids:?}");
    assert_eq!(ids.iter().filter(|id| *id == "after").count(), 1, "{ids:?}");
}

/// Its end waits for the broker, twice five seconds.
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_worker_hands_over_although_the_broker_is_gone() {
    let mut stack = Stack::builder().db(Db::Postgres).env("LEASE", "1h").start().await.unwrap();
    let db = stack.db().await.unwrap();
    stack.nats.kill9();
    stack
        .wait_until("the worker noticed", SOON, async || {
            stack.worker.process.log().text().contains("reading the partition anew")
        })
        .await;
    let ended = stack.worker.process.terminate(SOON).await.unwrap();
    assert!(ended.success(), "{}", stack.worker.process.log().tail(20));
    assert!(partitions(&db).await.iter().all(|row| row.owner.is_none()));
}
