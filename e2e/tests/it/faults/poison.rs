//! What can't be applied becomes a dead letter, and the partition goes on.

use async_nats::jetstream;
use e2e::http::Answer;
use e2e::nats::publish_bundle;
use e2e::stack::{Db, Stack};
use shared::bundle::{self, Metadata};
use shared::partition::Layout;
use worker::entity::dead_letter::State;
use worker::entity::job::Status;

use super::ownership::stopped;
use crate::expect::*;

on_each_database!(a_malformed_message_becomes_a_dead_letter_and_the_partition_goes_on);

async fn a_malformed_message_becomes_a_dead_letter_and_the_partition_goes_on(db: Db) {
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    // The last two are sound but for texts that a database refuses or can't index.
    let nul = br#"{"job":"a","key":"k","received_ms":0,"event_id":"\u0000","len":32}
{"job_id":"a","status":"failed"}
"#;
    let long = format!(
        "{{\"job\":\"a\",\"key\":\"k\",\"received_ms\":0,\"len\":{}}}\n{}\n",
        5043,
        lost(&"x".repeat(5000)),
    );
    assert_eq!(lost(&"x".repeat(5000)).len(), 5043);
    let garbage: [&[u8]; 6] =
        [b"hello", b"", b"\x00\xff\xfe", b"{\"job\":\"a\"}\n{}\n", nul, long.as_bytes()];
    for (subject, payload) in garbage
        .iter()
        .flat_map(|payload| [("callbacks.1.00", *payload), ("internal.1.00", *payload)])
    {
        let payload = payload.to_vec().into();
        publish_bundle(&jetstream, subject.into(), payload).await.unwrap();
    }
    jetstream.publish("callbacks.1.00", "no header".into()).await.unwrap().await.unwrap();
    accept(&stack, status("a", "provisioning")).await;

    let database = stack.db().await.unwrap();
    wait_for_status(&stack, &database, "a", Status::Provisioning).await;
    let letters = dead_letters(&database).await;
    let positions: Vec<(i64, i32)> =
        letters.iter().map(|letter| (letter.seq, letter.idx)).collect();
    assert_eq!(positions, (2..=14).map(|seq| (seq, 0)).collect::<Vec<_>>());
    assert!(letters.iter().all(|letter| letter.state == State::Dead && letter.job_id.is_none()));
    assert_eq!(letters[0].payload, b"hello");
    assert_eq!(
        (letters[0].subject.as_str(), letters[1].subject.as_str()),
        ("callbacks.1.00", "internal.1.00")
    );
    assert_eq!(letters[4].payload, b"\x00\xff\xfe");
    assert!(letters[12].reason.contains("Ackline-Bundle"), "{:?}", letters[12]);
    assert_eq!(events(&database).await.len(), 2);
    assert_eq!(partitions(&database).await[0].dead_letters_in_row, 0);
}

#[tokio::test]
async fn a_callback_in_a_foreign_partition_is_a_dead_letter() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let home = Layout::new(1, 2).of_job("a");
    let foreign = home.layout().partition(1 - home.number()).unwrap();
    let metadata = Metadata::new("a", "k", 0);
    let payload = bundle::encode(&metadata, status("a", "queued").as_bytes());
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    publish_bundle(&jetstream, foreign.callbacks_subject(), payload).await.unwrap();
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert!(job(&db, "a").await.is_none(), "it would have two writers");
    let letters = dead_letters(&db).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("belongs to partition"), "{:?}", letters[0]);
}

fn lost(job_id: &str) -> String {
    format!(r#"{{"type":"lost","job_id":"{job_id}","witness":[1,0]}}"#)
}

/// Sends callbacks so that they form one bundle, which no batch divides, in this order: while the
/// broker is frozen with another one on its way, they queue up behind it.
async fn accept_as_one_bundle(stack: &Stack, ahead: String, bodies: &[String]) {
    stack.nats.pause();
    let mut sending = Vec::new();
    for body in std::iter::once(&ahead).chain(bodies) {
        sending.push(post_later(stack, body.clone()));
        let queued = sending.len() as f64;
        stack
            .wait_until("ingress holds the callback", SOON, async || {
                series(stack.ingress.ops, "ackline_ingress_in_flight", &[]).await == queued
            })
            .await;
    }
    stack.nats.resume();
    for sent in sending {
        let Answer { status, body, .. } = sent.await.unwrap().unwrap();
        assert_eq!(status, 200, "{body:?}");
    }
}

on_each_database!(poison_anywhere_in_a_batch_is_isolated);

/// Poison anywhere in a batch takes only itself and what its job says later out of it.
async fn poison_anywhere_in_a_batch_is_isolated(db: Db) {
    let builder = Stack::builder().db(db).partitions(1).env("PUBLISH_DEADLINE", "60s");
    let stack = builder.start().await.unwrap();
    refuse_poison(&stack, db).await;
    let database = stack.db().await.unwrap();
    let (good, bad, later) = ("good", "bad", "later");
    let batches: [&[&str]; 7] = [
        &[bad, good, good, later, good, good],
        &[good, good, bad, good, later, good],
        &[good, good, good, good, good, bad],
        &[bad, bad, good, good, good, later],
        &[good, bad, good, good, later, bad],
        &[bad, good, good, good, good, bad],
        &[bad],
    ];
    let mut healthy = Vec::new();
    for (number, batch) in batches.into_iter().enumerate() {
        let mut bad_job = String::new();
        let mut bodies = Vec::new();
        let mut expected = Vec::new();
        let seq = 3 * number as i64 + 2;
        for (idx, what) in batch.iter().enumerate() {
            let id = format!("{number}-{idx}");
            let body = match *what {
                "good" => {
                    healthy.push(id.clone());
                    status(&id, "queued")
                }
                "bad" => {
                    bad_job.clone_from(&id);
                    poison(&id)
                }
                // Of the job of the last poison.
                _ => status(&bad_job, "provisioning"),
            };
            let state = if *what == bad { State::Dead } else { State::Held };
            if *what != good {
                expected.push((seq, idx as i32, bad_job.clone(), state, body.clone()));
            }
            bodies.push(body);
        }
        let ahead = format!("{number}-ahead");
        healthy.push(ahead.clone());
        accept_as_one_bundle(&stack, status(&ahead, "queued"), &bodies).await;
        // What comes in a later batch is held all the same.
        let late = status(&bad_job, "running");
        accept(&stack, late.clone()).await;
        expected.push((seq + 1, 0, bad_job, State::Held, late));
        wait_until_applied(&stack, &database).await;

        let letters: Vec<_> = dead_letters(&database)
            .await
            .into_iter()
            .filter(|letter| letter.seq >= seq)
            .map(|letter| {
                let payload = String::from_utf8(letter.payload).unwrap();
                (letter.seq, letter.idx, letter.job_id.unwrap(), letter.state, payload)
            })
            .collect();
        assert_eq!(letters, expected, "{batch:?}");
        let ids: Vec<String> = jobs(&database).await.into_iter().map(|job| job.id).collect();
        healthy.sort_unstable();
        assert_eq!(ids, healthy, "{batch:?}");
    }
    let applied = events(&database).await.len();
    assert_eq!(applied, healthy.len(), "each took effect once");
    // The jobs beside the poison go on.
    for id in &healthy {
        accept(&stack, status(id, "running")).await;
    }
    wait_until_applied(&stack, &database).await;
    assert!(jobs(&database).await.iter().all(|job| job.status == Status::Running));
    assert_eq!(events(&database).await.len(), 2 * healthy.len());
    assert_audited(&stack).await;
}

/// Runs `ackline dead-letters` and returns its exit code and all that it printed.
async fn decide(stack: &Stack, args: &[&str]) -> (i32, String) {
    run(stack, &ackline(stack, &["dead-letters"]).args(args)).await
}

on_each_database!(operators_decide_what_becomes_of_dead_letters);

async fn operators_decide_what_becomes_of_dead_letters(db: Db) {
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    refuse_poison(&stack, db).await;
    for id in ["mended", "dropped"] {
        accept(&stack, poison(id)).await;
        accept(&stack, status(id, "provisioning")).await;
        accept(&stack, heartbeat(id)).await;
    }
    accept(&stack, status("mended", "running")).await;
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    let listed = stack.ackline_json(&["dead-letters", "list", "--json"]).await.unwrap();
    let listed: Vec<(&str, &str)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| (letter["position"].as_str().unwrap(), letter["state"].as_str().unwrap()))
        .collect();
    let (dead, held) = ("dead", "held");
    assert_eq!(
        listed,
        [
            ("00/1/0", dead),
            ("00/2/0", held),
            ("00/3/0", held),
            ("00/4/0", dead),
            ("00/5/0", held),
            ("00/6/0", held),
            ("00/7/0", held),
        ]
    );
    let shown = stack.ackline_json(&["dead-letters", "show", "00/1/0", "--json"]).await.unwrap();
    assert_eq!(shown["payload"], poison("mended"));

    // What can't be done is said, and changes nothing.
    for (args, error) in [
        (["requeue", "00/2/0"], "held behind a dead letter of its job \"mended\""),
        (["requeue", "00/99/0"], "there is no dead letter at 00/99/0"),
        (["discard", "nonsense"], "is not PARTITION/SEQUENCE/INDEX"),
        (["requeue", "00/1/0"], "tried again, in vain"),
    ] {
        let (code, output) = decide(&stack, &args).await;
        assert!(code != 0 && output.contains(error), "{args:?}: {output}");
    }
    assert_eq!(dead_letters(&database).await.len(), 7);
    assert!(jobs(&database).await.is_empty());

    // Discarded, it takes no effect, and stays on record; what was held behind it is applied.
    let (code, output) = decide(&stack, &["discard", "00/4/0"]).await;
    assert!(code == 0 && output.contains("00/4/0 is discarded"), "{output}");
    let dropped = job(&database, "dropped").await.unwrap();
    assert_eq!((dropped.status, dropped.first_seq), (Status::Provisioning, 5));
    assert_eq!((dropped.heartbeat_count, dropped.region), (1, None));
    let (code, output) = decide(&stack, &["discard", "00/4/0"]).await;
    assert!(code == 1 && output.contains("discarded already"), "{output}");

    // Mended and tried again, the job is what it would have been without the fault.
    accept_poison(&stack, db).await;
    let (code, output) = decide(&stack, &["requeue", "00/1/0"]).await;
    assert!(code == 0 && output.contains("00/1/0 is applied"), "{output}");
    let mended = job(&database, "mended").await.unwrap();
    assert_eq!((mended.status, mended.first_seq, mended.last_seq), (Status::Running, 1, 7));
    assert_eq!((mended.heartbeat_count, mended.region.as_deref()), (1, Some("poison")));
    let steps: Vec<_> = events(&database)
        .await
        .into_iter()
        .filter(|event| event.job_id == "mended" && event.to_status.is_some())
        .map(|event| (event.seq, event.to_status.unwrap()))
        .collect();
    assert_eq!(steps, [(1, Status::Queued), (2, Status::Provisioning), (7, Status::Running)]);
    let letters: Vec<_> = dead_letters(&database)
        .await
        .into_iter()
        .map(|letter| (letter.seq, letter.state))
        .collect();
    assert_eq!(letters, [(4, State::Discarded)]);

    // Every order is on record at its own position, the one in vain too.
    let orders = events(&database).await.into_iter().filter(|event| event.to_status.is_none());
    assert_eq!(orders.map(|event| event.seq).collect::<Vec<_>>(), [8, 9, 10]);
    accept(&stack, status("dropped", "running")).await;
    wait_for_status(&stack, &database, "dropped", Status::Running).await;
}

#[tokio::test]
async fn twenty_dead_letters_in_a_row_stop_the_partition_and_a_repair_starts_it_again() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    refuse_poison(&stack, Db::Sqlite).await;
    accept(&stack, status("good", "queued")).await;
    for n in 0..22 {
        accept(&stack, poison(&format!("bad-{n}"))).await;
    }
    accept(&stack, status("good", "running")).await;
    let database = stack.db().await.unwrap();
    stopped(&stack, "dead letters in a row").await;
    let row = partitions(&database).await.remove(0);
    assert_eq!((row.applied_seq, row.dead_letters_in_row), (21, 20));
    assert_eq!(dead_letters(&database).await.len(), 20);
    assert_eq!(job(&database, "good").await.unwrap().status, Status::Queued);

    // The broken deployment is mended; what waits in the stream is applied as if nothing was.
    accept_poison(&stack, Db::Sqlite).await;
    stack.start_worker().await.unwrap();
    wait_for_status(&stack, &database, "good", Status::Running).await;
    let row = partitions(&database).await.remove(0);
    assert_eq!((row.stopped_reason, row.dead_letters_in_row), (None, 0));
    let ids: Vec<String> = jobs(&database).await.into_iter().map(|job| job.id).collect();
    assert_eq!(ids, ["bad-20", "bad-21", "good"]);
}
