//! Restored databases, dead letters, other brokers and lost streams; and what refuses a move.

use e2e::nats::{Nats, Settings};
use e2e::port::Port;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use shared::partition::{Layout, Partition};
use shared::stream::{Gate, find, generations};
use worker::entity::job::Status;

use super::*;
use crate::expect::*;

/// A callback whose job is in this partition.
fn job_in(partition: Partition) -> String {
    status(&id_in(partition, "job"), "queued")
}

async fn wait_for_generation(stack: &Stack, db: &DatabaseConnection, generation: i32) {
    stack
        .wait_until("the worker owns the new streams", SOON, async || {
            let rows = partitions(db).await;
            rows.iter().all(|row| row.generation == generation && row.owner.is_some())
        })
        .await;
}

#[tokio::test]
async fn a_database_from_before_a_move_catches_up_and_goes_over_again() {
    let mut stack = small(Db::Sqlite).start().await.unwrap();
    let db = stack.db().await.unwrap();
    for job in 0..20 {
        accept(&stack, status(&format!("job-{job}"), "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    let backup = stack.dir().join("backup.db");
    let save = format!("VACUUM INTO '{}'", backup.display());
    db.execute_unprepared(&save).await.unwrap();
    for job in 0..20 {
        accept(&stack, status(&format!("job-{job}"), "provisioning")).await;
    }
    let (code, text) = resize(&stack, "3").await;
    assert_eq!(code, 0, "{text}");
    for job in 0..20 {
        until_accepted(&stack, status(&format!("job-{job}"), "running")).await;
    }
    wait_until_applied(&stack, &db).await;
    let (before, of_before) = (jobs(&db).await, events(&db).await);

    db.close().await.unwrap();
    stack.worker.process.kill9();
    for end in ["", "-wal", "-shm"] {
        let file = stack.dir().join(format!("ackline.db{end}"));
        let _ = std::fs::remove_file(file);
    }
    std::fs::copy(&backup, stack.dir().join("ackline.db")).unwrap();
    stack.start_worker().await.unwrap();
    let db = stack.db().await.unwrap();
    wait_for_generation(&stack, &db, 1).await;
    let (code, text) = resize(&stack, "3").await;
    assert_eq!(code, 0, "{text}");
    wait_until_applied(&stack, &db).await;
    assert_eq!(jobs(&db).await, before);
    assert_eq!(events(&db).await, of_before);
    assert_audited(&stack).await;
}

on_each_database!(a_dead_letter_is_decided_about_after_a_move);

async fn a_dead_letter_is_decided_about_after_a_move(db: Db) {
    let stack = small(db).start().await.unwrap();
    let database = stack.db().await.unwrap();
    refuse_poison(&stack, db).await;
    let old = open(&stack).await;
    // Their partitions differ before and after.
    let is_moved = |id: &String| {
        let new = Layout::new(2, 5);
        old.of_job(id).number() == 1 && new.of_job(id).number() == 3
    };
    let ids: Vec<String> = (0..).map(|n| format!("job-{n}")).filter(is_moved).take(2).collect();
    let (kept, discarded) = (&ids[0], &ids[1]);
    for id in &ids {
        accept(&stack, poison(id)).await;
        accept(&stack, status(id, "provisioning")).await;
    }
    wait_until_applied(&stack, &database).await;
    let (code, text) = resize(&stack, "5").await;
    assert_eq!(code, 0, "{text}");
    for id in &ids {
        until_accepted(&stack, status(id, "running")).await;
    }
    wait_until_applied(&stack, &database).await;
    let letters = dead_letters(&database).await;
    assert_eq!(letters.len(), 6, "dead, held, and held in the new generation");

    accept_poison(&stack, db).await;
    for letter in letters.iter().filter(|letter| letter.refusals > 0) {
        let id = letter.job_id.as_ref().unwrap();
        let action = if id == kept { "requeue" } else { "discard" };
        stack.ackline(&["dead-letters", action, &place(letter)]).await.unwrap();
    }
    let of = async |id: &str| {
        let mut events = events(&database).await;
        events.retain(|event| event.job_id == id && event.to_status.is_some());
        events.sort_by_key(|event| (event.seq, event.idx));
        events
    };
    let statuses = async |id: &str| {
        of(id).await.into_iter().map(|event| event.to_status.unwrap()).collect::<Vec<_>>()
    };
    use Status::{Provisioning, Queued, Running};
    assert_eq!(statuses(kept).await, [Queued, Provisioning, Running]);
    assert_eq!(statuses(discarded).await, [Provisioning, Running]);
    for event in of(kept).await {
        // In the order in which it was delivered, it comes with its order.
        let order = (event.redriven_seq.unwrap(), event.redriven_idx.unwrap());
        assert!(order > (event.seq, event.idx), "{event:?}");
    }
    assert_eq!(job(&database, kept).await.unwrap().partition, 3);
    wait_until_applied(&stack, &database).await;
    assert_audited(&stack).await;
    assert_rebuilt(&stack, &database).await;
}

#[tokio::test]
async fn the_streams_move_to_another_broker() {
    let mut stack = small(Db::Postgres).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let other_dir = stack.dir().join("other");
    std::fs::create_dir(&other_dir).unwrap();
    let other =
        Nats::start_on(&other_dir, Port::lease().unwrap(), &Settings::default()).await.unwrap();
    let file = stack.dir().join("to.env");
    let lines = format!("# the new broker\nNATS_URL={}\nDATABASE_URL=unused\n", other.url());
    std::fs::write(&file, lines).unwrap();
    let to = ["move", "--to", file.to_str().unwrap(), "--yes"];

    let jobs: Vec<_> = open(&stack).await.all().map(|partition| id_in(partition, "job")).collect();
    for job in &jobs {
        accept(&stack, status(job, "queued")).await;
    }
    let (code, text) = run(&stack, &ackline(&stack, &to)).await;
    assert_eq!(code, 0, "{text}");
    // Everybody is told the new address, and goes on there.
    let url = other.url();
    let env = [("NATS_URL", url.as_str())];
    stack.worker.process.kill9();
    let worker = stack.start_worker_with(&env, &[]).await.unwrap();
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let old = std::mem::replace(&mut stack.ingress, ingress);
    for job in &jobs {
        until_accepted(&stack, status(job, "provisioning")).await;
        wait_for_status(&stack, &db, job, Status::Provisioning).await;
    }
    let body = status("late", "queued");
    let answer = old.post(&[("x-signature", &stack.sign(body.as_bytes()))], body).await.unwrap();
    assert_eq!(answer.status, 503, "the old streams are closed");
    let audit = ackline(&stack, &["audit"]).env("NATS_URL", &url);
    let (code, text) = run(&stack, &audit).await;
    assert_eq!(code, 0, "{text}");
    // The same command again has nothing to do.
    let (code, text) = run(&stack, &ackline(&stack, &to).env("NATS_URL", &url)).await;
    assert_eq!((code, text.contains("nothing to move")), (0, true), "{text}");
    drop((worker, old));
}

#[tokio::test]
async fn new_streams_take_the_place_of_lost_ones() {
    let mut stack = small(Db::Postgres).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let layout = open(&stack).await;
    for partition in layout.all() {
        accept(&stack, job_in(partition)).await;
    }
    wait_until_applied(&stack, &db).await;
    let (code, text) = run(&stack, &ackline(&stack, &["move", "--streams-lost", "--yes"])).await;
    assert_eq!(code, 1);
    assert!(
        text.contains("the stream CALLBACKS-1-00 is not lost: leave out --streams-lost"),
        "{text}"
    );

    let broker = broker(&stack).await;
    for partition in layout.all() {
        broker.delete_stream(partition.stream()).await.unwrap();
    }
    let (code, text) = run(&stack, &ackline(&stack, &["move", "--streams-lost", "--yes"])).await;
    assert_eq!(code, 0, "{text}");
    stack.start_worker().await.unwrap();
    for partition in layout.all() {
        let job = id_in(partition, "job");
        until_accepted(&stack, status(&job, "running")).await;
        wait_for_status(&stack, &db, &job, Status::Running).await;
    }
    let listed = stack.ackline(&["partitions", "list"]).await.unwrap();
    assert!(listed.contains(": the streams of generation 1 were lost"), "{listed}");
    assert_audited(&stack).await;
}

#[tokio::test]
async fn what_can_not_be_moved_is_refused_before_anything_changes() {
    let mut stack = small(Db::Postgres).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let (code, text) = run(&stack, &ackline(&stack, &["partitions", "resize", "3"])).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("with --yes it moves: from 2 partitions of generation 1 to 3"), "{text}");
    assert!(text.contains("nothing has changed yet"), "{text}");
    let unchanged = async |stack: &Stack| {
        assert_eq!(open(stack).await, Layout::new(1, 2));
        let left = generations(&broker(stack).await).await.unwrap();
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [1]);
    };

    // A single server has no room for three copies.
    let copies = ["partitions", "resize", "3", "--stream-replicas", "3", "--yes"];
    let (code, text) = run(&stack, &ackline(&stack, &copies)).await;
    assert_eq!(code, 1);
    assert!(text.contains("the stream CALLBACKS-2-00 can't be created"), "{text}");
    unchanged(&stack).await;

    let file = stack.dir().join("to.env");
    for (lines, why) in [
        ("NATS_ULR=nats://127.0.0.1:4222", "line 1: NATS_ULR is not a setting of the broker"),
        ("nats://127.0.0.1:4222", "line 1 is not NAME=VALUE"),
        ("NATS_CREDENTIALS_FILE=/nowhere", "NATS_URL is missing"),
    ] {
        std::fs::write(&file, lines).unwrap();
        let to = ["move", "--to", file.to_str().unwrap(), "--yes"];
        let (code, text) = run(&stack, &ackline(&stack, &to)).await;
        assert_eq!(code, 1);
        assert!(text.contains(why), "{text}");
    }

    let stop = "UPDATE partitions SET stopped_reason = 'ACK-106: too many' WHERE partition = 1";
    db.execute_unprepared(stop).await.unwrap();
    let (code, text) = resize(&stack, "3").await;
    assert_eq!(code, 1);
    assert!(
        text.contains("partition 01 is stopped: ACK-106: too many; let it go on first"),
        "{text}"
    );
    unchanged(&stack).await;
    db.execute_unprepared("UPDATE partitions SET stopped_reason = NULL").await.unwrap();

    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let (code, text) = resize(&stack, "3").await;
    assert_eq!(code, 1);
    assert!(text.contains("no worker is alive: start one"), "{text}");
    unchanged(&stack).await;
    let info = find(&broker(&stack).await, Layout::new(1, 2).first()).await.unwrap().unwrap();
    assert_eq!(Gate::of(&info.config, Layout::new(1, 2).first()), Gate::Open);
}
