//! Orders about dead letters where there is much else: ahead of a checkpoint, and held behind one.

use async_nats::jetstream::{self, Context};
use bytes::BytesMut;
use e2e::nats::publish_bundle;
use e2e::stack::{Db, Stack};
use futures::{FutureExt, StreamExt};
use shared::bundle::{self, Metadata};
use shared::partition::Layout;
use worker::entity::dead_letter::State;
use worker::entity::job::Status;
use worker::rules::event::{Position, lost_body};

use crate::expect::*;

/// Publishes bodies in bundles of so many.
async fn publish(jetstream: &Context, subject: String, bodies: &[String], in_bundle: usize) {
    for bodies in bodies.chunks(in_bundle) {
        let mut payload = BytesMut::new();
        for body in bodies {
            payload.extend_from_slice(&bundle::encode(&Metadata::new("", "k", 0), body.as_bytes()));
        }
        publish_bundle(jetstream, subject.clone(), payload.freeze()).await.unwrap();
    }
}

/// An empty database finds the decision about a dead letter behind any number of messages of owners,
/// without a request for each of them.
#[tokio::test]
async fn an_order_is_found_behind_many_internal_messages_with_few_requests() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    refuse_poison(&stack, Db::Sqlite).await;
    accept(&stack, poison("bad")).await;
    accept(&stack, status("good", "queued")).await;
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    let client = stack.nats.client().await.unwrap();
    let jetstream = jetstream::new(client.clone());
    let silence = lost_body("good", Position { seq: 1, idx: 7 });
    let internal = Layout::new(1, 1).first().internal_subject();
    publish(&jetstream, internal, &vec![silence; 500], 1).await;
    let discard = ["dead-letters", "discard", "00/1/0"];
    let (code, output) = run(&stack, &ackline(&stack, &discard)).await;
    assert!(code == 0, "{output}");
    let decided = dead_letters(&database).await;
    assert_eq!(decided[0].state, State::Discarded);

    // A database that would take the callback now, and knows nothing yet.
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    drop(database);
    let mut asked = client.subscribe("$JS.API.STREAM.MSG.GET.>").await.unwrap();
    client.flush().await.unwrap();
    let url = format!("sqlite:{}?mode=rwc", stack.dir().join("second.db").display());
    let again = [("DATABASE_URL", url.as_str())];
    let migrate = ackline(&stack, &["migrate"]).env("DATABASE_URL", &url);
    let (code, output) = run(&stack, &migrate).await;
    assert!(code == 0, "{output}");
    let _worker = stack.start_worker_with(&again, &[]).await.unwrap();
    let second = sea_orm::Database::connect(&url).await.unwrap();
    wait_until_applied(&stack, &second).await;
    let found = dead_letters(&second).await;
    assert_eq!((found.len(), found[0].state), (1, State::Discarded));
    assert!(job(&second, "bad").await.is_none());
    let mut requests = 0;
    while asked.next().now_or_never().is_some() {
        requests += 1;
    }
    assert!((1..10).contains(&requests), "{requests} requests");
}

on_each_database!(what_is_held_in_great_numbers_is_applied_in_order);

/// More than is in memory at a time is held behind one dead letter.
async fn what_is_held_in_great_numbers_is_applied_in_order(db: Db) {
    const HELD: usize = 2500;
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    refuse_poison(&stack, db).await;
    accept(&stack, poison("bad")).await;
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let beat =
        |n| format!(r#"{{"job_id":"bad","type":"heartbeat","sent_at":{}}}"#, 1_700_000_000 + n);
    let mut bodies: Vec<String> = (0..HELD).map(beat).collect();
    bodies.push(status("bad", "running"));
    let subject = Layout::new(1, 1).first().callbacks_subject();
    publish(&jetstream, subject, &bodies, 250).await;
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    assert_eq!(dead_letters(&database).await.len(), HELD + 2);

    // Refused again, everything is held again.
    let requeue = ackline(&stack, &["dead-letters", "requeue", "00/1/0"]);
    let (code, output) = run(&stack, &requeue).await;
    assert!(code == 1 && output.contains("refuse"), "{output}");
    let letters = dead_letters(&database).await;
    let held = letters.iter().filter(|letter| letter.state == State::Held).count();
    assert_eq!((letters.len(), held), (HELD + 2, HELD + 1));

    accept_poison(&stack, db).await;
    let (code, output) = run(&stack, &requeue).await;
    assert!(code == 0, "{output}");
    assert!(dead_letters(&database).await.is_empty());
    let job = job(&database, "bad").await.unwrap();
    assert_eq!((job.status, job.heartbeat_count), (Status::Running, HELD as i32));
    assert_eq!((job.first_seq, job.last_seq), (1, (HELD / 250 + 2) as i64));
    assert_audited(&stack).await;
}
