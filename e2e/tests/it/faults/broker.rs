//! One server as the broker is killed, frozen, filled up and forgets, and confirmations get lost.

use std::collections::HashSet;

use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use e2e::load::Running;
use e2e::proxy::{Flow, Proxy};
use e2e::stack::{Db, Ingress, Stack};
use futures::{StreamExt, TryStreamExt};
use rstest::rstest;
use serde_json::json;
use shared::partition::Layout;
use worker::entity::job::Status;

use super::figures::{conclude, endless, goes_on};
use crate::expect::*;

const PARTITIONS: u16 = 4;

async fn stack(publish_deadline: &str) -> Stack {
    Stack::builder()
        .db(Db::Postgres)
        .partitions(PARTITIONS)
        .env("LEASE", "1s")
        .env("PUBLISH_DEADLINE", publish_deadline)
        .start()
        .await
        .unwrap()
}

async fn jetstream(stack: &Stack) -> jetstream::Context {
    jetstream::new(stack.nats.client().await.unwrap())
}

/// Waits until this many more tries have failed.
async fn are_refused(stack: &Stack, running: &Running, more: u64) {
    let target = running.retries() + more;
    stack.wait_until("callbacks are refused", SOON, async || running.retries() >= target).await;
}

#[rstest]
#[case::twice(2)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(20)]
#[tokio::test]
async fn a_broker_that_is_killed_loses_and_repeats_nothing(#[case] kills: usize) {
    let mut stack = stack("12s").await;
    let running = endless(&stack, 8).start();
    for _ in 0..kills {
        goes_on(&stack, &running, 100).await;
        stack.nats.kill9();
        stack.nats.restart().await.unwrap();
    }
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, &format!("{kills} kills of the broker"), &[]).await;
}

/// Frozen beyond the deadline of what is published, or until ingress drops its connection.
#[rstest]
#[case::once(1, false)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(3, false)]
#[ignore = "long: make test-faults"]
#[case::until_it_is_dropped(3, true)]
#[tokio::test]
async fn a_broker_that_is_frozen_loses_and_repeats_nothing(
    #[case] freezes: usize,
    #[case] until_dropped: bool,
) {
    let stack = stack("1s").await;
    let running = endless(&stack, 8).start();
    let log = stack.ingress.process.log();
    let drops = || log.text().matches("the connection was lost").count();
    for freeze in 1..=freezes {
        goes_on(&stack, &running, 100).await;
        stack.nats.pause();
        are_refused(&stack, &running, 16).await;
        if until_dropped {
            let what = "ingress drops its connection";
            stack.wait_until(what, SOON, async || drops() >= freeze).await;
        }
        stack.nats.resume();
    }
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, &format!("{freezes} freezes of the broker"), &[]).await;
}

/// Deletes every consumer there is, and returns how many.
async fn delete_consumers(stack: &Stack) -> usize {
    let jetstream = jetstream(stack).await;
    let mut deleted = 0;
    for partition in Layout::new(1, PARTITIONS).all() {
        let stream = jetstream.get_stream(partition.stream()).await.unwrap();
        let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
        for name in names {
            // The worker may just have deleted it itself.
            deleted += usize::from(stream.delete_consumer(&name).await.is_ok());
        }
    }
    deleted
}

#[tokio::test]
async fn consumers_that_are_deleted_over_and_over_lose_and_repeat_nothing() {
    let stack = stack("12s").await;
    let db = stack.db().await.unwrap();
    let running = endless(&stack, 8).start();
    let mut deleted = 0;
    for _ in 0..8 {
        let before = partitions(&db).await;
        goes_on(&stack, &running, 50).await;
        deleted += delete_consumers(&stack).await;
        stack
            .wait_until("every partition is read and applied anew", SOON, async || {
                let now = partitions(&db).await;
                now.iter().zip(&before).all(|(now, before)| {
                    now.epoch > before.epoch && now.applied_seq > before.applied_seq
                })
            })
            .await;
    }
    assert!(stack.worker.process.is_running());
    conclude(&stack, running, &format!("{deleted} consumers deleted"), &[]).await;
}

/// One more ingress, which reaches the broker through a proxy.
async fn behind_a_proxy(stack: &Stack, publish_deadline: &str) -> (Proxy, Ingress) {
    let proxy = Proxy::start(stack.nats.node(0).address()).await.unwrap();
    let url = format!("nats://{}", proxy.address());
    let env = [("NATS_URL", url.as_str()), ("PUBLISH_DEADLINE", publish_deadline)];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    (proxy, ingress)
}

/// The bundles in all streams. Even with the same callbacks, no two would be the same bytes, since
/// each callback bears the time of its request.
async fn bundles(stack: &Stack) -> Vec<Bytes> {
    let jetstream = jetstream(stack).await;
    let mut bundles = Vec::new();
    for partition in Layout::new(1, PARTITIONS).all() {
        let stream = jetstream.get_stream(partition.stream()).await.unwrap();
        let config = consumer::pull::Config {
            ack_policy: consumer::AckPolicy::None,
            ..consumer::pull::Config::default()
        };
        let messages = stream.cached_info().state.messages as usize;
        let consumer = stream.create_consumer(config).await.unwrap();
        let received = consumer.messages().await.unwrap().take(messages);
        let payloads = received.map_ok(|message| message.message.payload);
        bundles.extend(payloads.try_collect::<Vec<_>>().await.unwrap());
    }
    bundles
}

/// Swallows the confirmations of a load again and again; every other time the connection ends.
#[rstest]
#[case::twice(2)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(20)]
#[tokio::test]
async fn bundles_whose_confirmations_are_lost_are_stored_once(#[case] rounds: usize) {
    let stack = stack("12s").await;
    let (proxy, ingress) = behind_a_proxy(&stack, "12s").await;
    let mut load = endless(&stack, 8);
    load.targets = vec![ingress.addr];
    let running = load.start();
    let log = ingress.process.log();
    let again = || log.text().matches("trying a bundle again: timed out").count();
    for round in 0..rounds {
        goes_on(&stack, &running, 100).await;
        let (before, ends) = (again(), stream_ends(&stack).await);
        proxy.to_client(Flow::Swallow);
        if round % 2 == 0 {
            stack.wait_until("ingress tries again", SOON, async || again() > before).await;
        } else {
            stack
                .wait_until("a bundle is stored", SOON, async || stream_ends(&stack).await != ends)
                .await;
            proxy.cut();
        }
        proxy.to_client(Flow::Pass);
    }
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, &format!("{rounds} times confirmations lost"), &[]).await;
    let bundles = bundles(&stack).await;
    let distinct: HashSet<&Bytes> = bundles.iter().collect();
    assert_eq!(distinct.len(), bundles.len(), "a bundle is stored once");
}

/// A sender is told 503 and tries again through another ingress, and the job goes on; the stream
/// gets the copy of the first ingress, too: later than everything, or first of all.
#[rstest]
#[case::late(true)]
#[case::first(false)]
#[tokio::test]
async fn a_copy_that_comes_through_another_ingress_has_no_effect(#[case] first_is_late: bool) {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let (proxy, first) = behind_a_proxy(&stack, "500ms").await;
    let body = |event_id: &str, status: &str| {
        json!({ "job_id": "a", "status": status, "event_id": event_id }).to_string()
    };
    accept(&stack, body("e1", "queued")).await;

    if first_is_late {
        proxy.to_server(Flow::Hold);
    } else {
        proxy.to_client(Flow::Swallow);
    }
    let callback = body("e2", "provisioning");
    let signature = stack.sign(callback.as_bytes());
    let answer = first.post(&[("x-signature", &signature)], callback.clone()).await.unwrap();
    assert_eq!(answer.status, 503);
    if !first_is_late {
        stack
            .wait_until("it is stored all the same", SOON, async || {
                stream_ends(&stack).await == [2]
            })
            .await;
    }
    accept(&stack, callback).await;
    // Without its id, the late copy would open the failed job again.
    accept(&stack, body("e3", "failed")).await;
    proxy.to_server(Flow::Pass);
    stack
        .wait_until("both copies are stored", SOON, async || stream_ends(&stack).await == [4])
        .await;

    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(job(&db, "a").await.unwrap().status, Status::Failed);
    let events = events(&db).await;
    let rows: Vec<_> = events
        .iter()
        .map(|event| (event.event_id.as_deref().unwrap(), event.reason.as_deref()))
        .collect();
    let copy = ("e2", Some("duplicate"));
    let expected = match first_is_late {
        true => [("e1", None), ("e2", None), ("e3", None), copy],
        false => [("e1", None), ("e2", None), copy, ("e3", None)],
    };
    assert_eq!(rows, expected);
    assert_audited(&stack).await;
}

/// Holds up what one of two ingresses publishes, or its confirmations, until senders have taken
/// the other one.
#[rstest]
#[case::once(1)]
#[ignore = "long: make test-faults"]
#[case::over_and_over(20)]
#[tokio::test]
async fn copies_through_two_ingresses_take_effect_once(#[case] rounds: usize) {
    let stack = stack("12s").await;
    let (proxy, first) = behind_a_proxy(&stack, "500ms").await;
    let mut load = endless(&stack, 8);
    load.targets = vec![first.addr, stack.ingress.addr];
    load.rotate = true;
    let running = load.start();
    for round in 0..rounds {
        goes_on(&stack, &running, 100).await;
        let (hold, swallow) = (Flow::Hold, Flow::Swallow);
        if round % 2 == 0 {
            proxy.to_server(hold)
        } else {
            proxy.to_client(swallow)
        }
        are_refused(&stack, &running, 16).await;
        goes_on(&stack, &running, 50).await;
        proxy.to_server(Flow::Pass);
        proxy.to_client(Flow::Pass);
    }
    goes_on(&stack, &running, 100).await;
    let faults = format!("{rounds} times retried through another ingress");
    let copies = conclude(&stack, running, &faults, &[]).await;
    assert!(copies > 0, "there was nothing to recognise");
}

/// A job of each partition.
fn a_job_of_each() -> Vec<String> {
    Layout::new(1, PARTITIONS).all().map(|partition| id_in(partition, "probe")).collect()
}

/// Streams fill up while nothing is applied, and have room again once workers run.
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn streams_that_are_full_again_and_again_lose_and_repeat_nothing() {
    let rounds = 3;
    let mut stack = Stack::builder()
        .db(Db::Postgres)
        .partitions(PARTITIONS)
        .stream_max_bytes(1 << 20)
        .env("LEASE", "1s")
        .start()
        .await
        .unwrap();
    let running = endless(&stack, 16).start();
    let probes = a_job_of_each();
    goes_on(&stack, &running, 100).await;
    for _ in 0..rounds {
        assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
        for probe in &probes {
            stack
                .wait_until(&format!("the stream of {probe} is full"), SOON, async || {
                    let answer = stack.post(status(probe, "queued")).await.unwrap();
                    answer.status == 503 && answer.text() == r#"{"error":"Stream full"}"#
                })
                .await;
        }
        stack.start_worker().await.unwrap();
        let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
        // There is room for them only where what is applied is purged.
        goes_on(&stack, &running, 3_000).await;
        drop(second);
    }
    let probes: Vec<&str> = probes.iter().map(String::as_str).collect();
    conclude(&stack, running, &format!("{rounds} times full streams"), &probes).await;
    for partition in Layout::new(1, PARTITIONS).all() {
        let stream = jetstream(&stack).await.get_stream(partition.stream()).await.unwrap();
        let state = &stream.cached_info().state;
        assert!(state.first_sequence > 1 && state.bytes <= 1 << 20, "{state:?}");
    }
}
