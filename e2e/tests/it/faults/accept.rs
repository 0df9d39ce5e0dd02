//! A stopped partition goes on once a person says so, and not before.

use async_nats::jetstream;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait};
use serde_json::json;
use worker::entity::job::Status;
use worker::entity::partition_gap;

use crate::expect::*;
use crate::faults::ownership::{refused_to_accept, stopped, with_three_applied};

async fn gaps(db: &DatabaseConnection) -> Vec<(i64, i64)> {
    let gaps = partition_gap::Entity::find().all(db).await.unwrap();
    gaps.into_iter().map(|gap| (gap.from_seq, gap.to_seq)).collect()
}

const ACCEPT: [&str; 5] = ["partitions", "accept", "0", "--yes", "--json"];

#[tokio::test]
async fn a_partition_goes_on_without_removed_messages_and_keeps_that_on_record() {
    let (mut stack, ..) = with_three_applied().await;
    for step in ["queued", "provisioning", "running"] {
        accept(&stack, status("b", step)).await;
    }
    first_stream(&stack).await.purge().sequence(6).await.unwrap();
    stack.start_worker().await.unwrap();
    stopped(&stack, "the stream begins at 6").await;
    let db = stack.db().await.unwrap();

    let shown = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    assert!(shown[0]["stopped_reason"].as_str().unwrap().contains("begins at 6"), "{shown}");
    assert_eq!(shown[0]["stream"]["first_seq"], 6, "{shown}");
    assert_eq!(shown[0]["owner_name"], "worker", "{shown}");
    let asked = stack.ackline_json(&["partitions", "accept", "0", "--json"]).await.unwrap();
    assert_eq!(asked["accepted"], false, "{asked}");
    assert_eq!(partitions(&db).await[0].applied_seq, 3, "nothing has changed yet");
    assert_eq!(gaps(&db).await, []);

    let epoch = partitions(&db).await[0].epoch;
    let accepted = stack.ackline_json(&ACCEPT).await.unwrap();
    assert_eq!(accepted["skipped"], json!({ "from_seq": 4, "to_seq": 5 }), "{accepted}");
    assert_eq!(gaps(&db).await, [(4, 5)]);
    assert!(partitions(&db).await[0].epoch > epoch, "a live owner is fenced");
    assert!(refused_to_accept(&stack).await.contains("is not stopped"));

    stack.start_worker().await.unwrap();
    let job = wait_for_status(&stack, &db, "b", Status::Running).await;
    assert_eq!(job.first_seq, 6, "what is gone was not made up");
    // From here on everything is as ever, over a restart too.
    stack.start_worker().await.unwrap();
    accept(&stack, status("c", "queued")).await;
    wait_for_status(&stack, &db, "c", Status::Queued).await;
    assert_eq!(partitions(&db).await[0].stopped_reason, None);
    let listed = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    assert_eq!(listed[0]["gaps"][0]["to_seq"], 5, "{listed}");
}

#[tokio::test]
async fn a_partition_goes_on_after_everything_in_its_stream_was_removed() {
    let (mut stack, ..) = with_three_applied().await;
    accept(&stack, status("b", "queued")).await;
    first_stream(&stack).await.purge().sequence(5).await.unwrap();
    stack.start_worker().await.unwrap();
    stopped(&stack, "the stream begins at 5").await;
    let db = stack.db().await.unwrap();
    stack.ackline_json(&ACCEPT).await.unwrap();
    assert_eq!(gaps(&db).await, [(4, 4)]);
    // It begins to read where nothing is yet.
    stack.start_worker().await.unwrap();
    accept(&stack, status("c", "queued")).await;
    wait_for_status(&stack, &db, "c", Status::Queued).await;
}

#[tokio::test]
async fn a_partition_goes_on_after_a_hole() {
    let (mut stack, jetstream, _) = with_three_applied().await;
    accept(&stack, status("b", "queued")).await;
    for _ in 0..2 {
        jetstream.publish("internal.1.00", "anything".into()).await.unwrap().await.unwrap();
    }
    accept(&stack, status("b", "provisioning")).await;
    // A purge by subject is what leaves a hole: the stream's ends do not tell.
    let stream = first_stream(&stack).await;
    assert_eq!(stream.purge().filter("internal.1.00").await.unwrap().purged, 2);
    stack.start_worker().await.unwrap();
    stopped(&stack, "the message 5 is gone").await;
    let db = stack.db().await.unwrap();
    assert_eq!(job(&db, "b").await.unwrap().status, Status::Queued);
    assert_eq!(partitions(&db).await[0].applied_seq, 4, "what comes before the hole is applied");
    stack.ackline_json(&ACCEPT).await.unwrap();
    assert_eq!(gaps(&db).await, [(5, 6)]);
    stack.worker.process.kill9();
    stack.worker = stack.start_worker_with(&[("REPLAY_HORIZON", "1s")], &[]).await.unwrap();
    wait_for_status(&stack, &db, "b", Status::Provisioning).await;
    // The janitor finds its way over the hole.
    stack
        .wait_until("only the checkpoint is left", SOON, async || {
            first_stream(&stack).await.cached_info().state.first_sequence == 7
        })
        .await;
}

#[tokio::test]
async fn a_partition_that_is_stopped_by_dead_letters_skips_nothing() {
    let mut stack =
        Stack::builder().partitions(1).env("DEAD_LETTER_LIMIT", "3").start().await.unwrap();
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    for _ in 0..5 {
        jetstream.publish("callbacks.1.00", "garbage".into()).await.unwrap().await.unwrap();
    }
    accept(&stack, status("a", "queued")).await;
    stopped(&stack, "dead letters in a row").await;
    let db = stack.db().await.unwrap();
    let accepted = stack.ackline_json(&ACCEPT).await.unwrap();
    assert_eq!(accepted["skipped"], json!(null), "{accepted}");
    let row = partitions(&db).await.remove(0);
    assert_eq!((row.applied_seq, row.dead_letters_in_row), (3, 0));
    stack.start_worker().await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Queued).await;
    assert_eq!(dead_letters(&db).await.len(), 5);
    assert_eq!(gaps(&db).await, []);
}

#[tokio::test]
async fn a_live_owner_takes_up_an_accepted_partition_on_postgres() {
    let stack = Stack::builder()
        .db(Db::Postgres)
        .partitions(1)
        .env("LEASE", "1s")
        .env("DEAD_LETTER_LIMIT", "1")
        .start()
        .await
        .unwrap();
    let db = stack.db().await.unwrap();
    refuse_poison(&stack, Db::Postgres).await;
    for n in 0..2 {
        accept(&stack, poison(&n.to_string())).await;
    }
    accept(&stack, status("a", "queued")).await;
    stopped(&stack, "dead letters in a row").await;
    stack.ackline_json(&ACCEPT).await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Queued).await;
}

#[tokio::test]
async fn a_stream_that_contradicts_what_was_applied_is_not_accepted() {
    let (mut stack, ..) = with_three_applied().await;
    let db = stack.db().await.unwrap();
    for (change, stop, refusal) in [
        ("applied_msg_id = 'another'", "is not the one that was applied", "is not the one"),
        ("applied_seq = 9", "it lost its tail", "ends at 3, but 9 was applied"),
    ] {
        db.execute_unprepared(&format!("UPDATE partitions SET {change}")).await.unwrap();
        stack.start_worker().await.unwrap();
        stopped(&stack, stop).await;
        let reason = refused_to_accept(&stack).await;
        assert!(reason.contains(refusal) && reason.contains("an empty database"), "{reason}");
        assert!(partitions(&db).await[0].stopped_reason.is_some());
        stack.worker.process.kill9();
    }
    assert_eq!(gaps(&db).await, []);
}
