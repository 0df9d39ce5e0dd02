//! `ackline move` and `ackline partitions resize`: under load, interrupted at every step, to another
//! broker, in the place of lost streams, and what refuses it.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use e2e::load::Load;
use e2e::nats::{Nats, Settings};
use e2e::port::Port;
use e2e::stack::{Builder, Db, Stack};
use futures::StreamExt;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::json;
use shared::partition::{Layout, Partition};
use shared::stream::{Gate, find, find_open, generations};
use worker::entity::job::Status;
use worker::store::partitions::{Claim, acquire};

use crate::expect::*;

/// Callbacks are answered 503 while the streams change.
const PATIENCE: usize = 400;

fn small(db: Db) -> Builder {
    Stack::builder().db(db).partitions(2).env("LEASE", "2s").env("PUBLISH_DEADLINE", "2s")
}

fn load(stack: &Stack, jobs: usize) -> Load {
    let load = Load::new(stack.ingress.addr, stack.secret(), jobs);
    let rest = Duration::from_millis(20);
    Load { max_tries: PATIENCE, retry_pause: Duration::from_millis(50), rest, ..load }
}

async fn broker(stack: &Stack) -> Context {
    jetstream::new(stack.nats.client().await.unwrap())
}

async fn open(stack: &Stack) -> Layout {
    find_open(&broker(stack).await, None).await.unwrap()
}

async fn resize(stack: &Stack, partitions: &str) -> (i32, String) {
    run(stack, &ackline(stack, &["partitions", "resize", partitions, "--yes"])).await
}

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

on_each_database!(the_number_of_partitions_changes_under_load);

async fn the_number_of_partitions_changes_under_load(db: Db) {
    let stack = small(db).start().await.unwrap();
    let database = stack.db().await.unwrap();
    let running = load(&stack, 100).start();
    for (after, to) in [(50, "5"), (400, "1"), (700, "3")] {
        stack.wait_until("the load goes on", SOON, async || running.accepted() >= after).await;
        let (code, text) = resize(&stack, to).await;
        assert_eq!(code, 0, "{text}");
    }
    let report = running.finish().await.unwrap();
    assert_eq!(open(&stack).await, Layout::new(4, 3));
    assert_all_applied(&stack, &report).await;
    assert_eq!(report.accepted(), 1000);

    // Each generation begins where no sequence of an older one is.
    let events = events(&database).await;
    for (generation, bounds) in (0..).map(|number| 1_000_000_000 * number..).take(4).enumerate() {
        let of_generation =
            events.iter().filter(|event| event.seq / 1_000_000_000 == generation as i64);
        assert!(of_generation.clone().count() > 0, "generation {generation}");
        assert!(of_generation.clone().all(|event| bounds.contains(&event.seq)));
    }
    // Of the last one the streams still hold something.
    let jobs = jobs(&database).await;
    let last = |seq: i64| seq > 3_000_000_000;
    let duplicates = events.iter().filter(|event| last(event.seq)).map(|event| &event.job_id);
    let of_last = jobs.iter().filter(|job| last(job.last_seq)).map(|job| &job.id);
    let last = of_last.chain(duplicates).collect::<std::collections::HashSet<_>>().len() as u64;
    assert!((1..100).contains(&last), "{last}");
    // What is closed is applied to its end, and is on record.
    let listed = stack.ackline(&["partitions", "list"]).await.unwrap();
    assert!(listed.contains(": moved to generation 2"), "{listed}");
    let (code, text) = resize(&stack, "3").await;
    assert_eq!((code, text.contains("nothing to move")), (0, true), "{text}");

    // The closed streams are kept for a rebuild, which gives the same rows.
    assert_rebuilt(&stack, &database).await;
    let delete = ["partitions", "resize", "3", "--delete-old", "--yes"];
    stack.ackline(&delete).await.unwrap();
    let left: Vec<u32> = generations(&broker(&stack).await).await.unwrap().into_iter().collect();
    assert_eq!(left, [4]);
    assert_audited(&stack).await;

    // Finished jobs count, and are pruned, whatever partition their rows name.
    let look = stack.ackline_json(&["status", "--json"]).await.unwrap();
    assert_eq!((&look["jobs"]["running"], &look["jobs"]["failed"]), (&json!(90), &json!(10)));
    stack
        .wait_until("all are old enough", SOON, async || {
            let prune = ["prune", "--older-than", "1s", "--json"];
            stack.ackline_json(&prune).await.unwrap()["kept"].as_u64() == Some(last)
        })
        .await;
    let kept = crate::expect::jobs(&database).await;
    assert_eq!(kept.len() as u64, last);
}

/// A rebuild from all generations gives the same jobs and events.
async fn assert_rebuilt(stack: &Stack, database: &DatabaseConnection) {
    let file = stack.dir().join("rebuilt.db");
    let url = format!("sqlite:{}?mode=rwc", file.display());
    let (code, text) = run(stack, &ackline(stack, &["rebuild", "--database-url", &url])).await;
    assert_eq!(code, 0, "{text}");
    let rebuilt = sea_orm::Database::connect(&url).await.unwrap();
    assert_eq!(jobs(&rebuilt).await, jobs(database).await);
    assert_eq!(events(&rebuilt).await, events(database).await);
    let (code, text) = run(stack, &ackline(stack, &["audit", "--database-url", &url])).await;
    assert_eq!(code, 0, "{text}");
}

/// Starts a command, and kills it with the so-many-th change of streams that it asks the broker for.
/// Returns whether it came so far.
pub(super) async fn killed_at_change(stack: &Stack, args: &[&str], number: usize) -> bool {
    let client = stack.nats.client().await.unwrap();
    let mut asked = client.subscribe(">").await.unwrap();
    client.flush().await.unwrap();
    let mut command = stack.spawn(&ackline(stack, args)).unwrap();
    let mut changes = 0;
    let is_change = |subject: &str| {
        ["$JS.API.STREAM.CREATE.", "$JS.API.STREAM.UPDATE.", "closed."]
            .iter()
            .any(|begin| subject.starts_with(begin))
    };
    loop {
        tokio::select! {
            message = asked.next() => {
                changes += usize::from(is_change(message.unwrap().subject.as_str()));
                if changes == number {
                    command.kill9();
                    return true;
                }
            }
            ended = command.wait(SOON) => {
                assert!(ended.unwrap().success(), "{}", command.log().text());
                return false;
            }
        }
    }
}

/// Interrupts moves at these changes, each of which is then finished or, every second time if that
/// is possible, taken back.
async fn interrupted(db: Db, at: impl IntoIterator<Item = usize>) {
    let stack = small(db).start().await.unwrap();
    let database = stack.db().await.unwrap();
    let running = load(&stack, 2000).start();
    let (mut generation, mut finished) = (1, 0);
    for (turn, number) in at.into_iter().enumerate() {
        let now = partitions(&database).await.len() as u16;
        let to = if now == 2 { 3 } else { 2 };
        let to_text = to.to_string();
        let args = ["partitions", "resize", &to_text, "--yes"];
        let came_so_far = killed_at_change(&stack, &args, number).await;
        let before = running.accepted();
        if came_so_far && turn % 2 == 1 {
            let back = ["partitions", "resize", "7", "--take-back", "--yes"];
            let (code, text) = run(&stack, &ackline(&stack, &back)).await;
            if code == 0 {
                assert!(text.contains("taken back"), "{text}");
                assert_eq!(open(&stack).await, Layout::new(generation, now));
            } else {
                assert!(text.contains("the move can only be finished"), "{text}");
            }
        }
        if open_or_none(&stack).await != Some(Layout::new(generation, now)) || turn % 2 == 0 {
            let (code, text) = resize(&stack, &to.to_string()).await;
            assert_eq!(code, 0, "change {number}: {text}");
            generation += 1;
            finished += 1;
            assert_eq!(open(&stack).await, Layout::new(generation, to));
        }
        stack
            .wait_until("callbacks are accepted again", SOON, async || {
                running.accepted() > before + 20
            })
            .await;
    }
    assert!(finished > 0);
    running.stop();
    let report = running.finish().await.unwrap();
    assert_all_applied(&stack, &report).await;
}

async fn open_or_none(stack: &Stack) -> Option<Layout> {
    find_open(&broker(stack).await, None).await.ok()
}

#[tokio::test]
async fn a_move_that_is_killed_is_finished_or_taken_back() {
    interrupted(Db::Sqlite, [2, 5, 8, 5]).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_move_that_is_killed_at_any_change_is_finished_or_taken_back() {
    // Of 2 to 3 partitions: three are made, two closed and marked, three opened.
    interrupted(Db::Postgres, (1..=11).flat_map(|number| [number, number])).await;
}

#[tokio::test]
async fn a_move_waits_until_everything_in_the_old_streams_is_applied() {
    let stack = small(Db::Postgres).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let lock = lock_table(&db, "job_events").await;
    let jobs: Vec<_> = (0..20).map(|number| format!("job-{number}")).collect();
    for job in &jobs {
        accept(&stack, status(job, "queued")).await;
    }
    let program = ackline(&stack, &["partitions", "resize", "3", "--yes"]).env("RUST_LOG", "info");
    let mut command = stack.spawn(&program).unwrap();
    let log = command.log();
    stack
        .wait_until("it waits", SOON, async || {
            log.text().contains("waiting: partition 00 is applied")
        })
        .await;
    // The new streams take what the old ones do not.
    for job in &jobs {
        until_accepted(&stack, status(job, "running")).await;
    }
    assert!(command.is_running());
    lock.rollback().await.unwrap();
    assert!(command.wait(SOON).await.unwrap().success(), "{}", log.text());
    for job in &jobs {
        wait_for_status(&stack, &db, job, Status::Running).await;
    }
    assert_eq!(events(&db).await.len(), 40);
    // Whoever still reads the old streams gets no checkpoint of the new ones.
    let claim = |generation| Claim {
        generation,
        me: "late",
        lease: Duration::from_secs(1),
        alone: true,
        watch_gap: None,
    };
    assert_eq!(acquire(&db, 0, claim(1)).await.unwrap(), None);
    assert!(acquire(&db, 0, claim(2)).await.unwrap().is_some());
    assert_audited(&stack).await;
}

#[tokio::test]
async fn a_move_that_is_killed_in_its_transaction_has_changed_no_row() {
    let stack = small(Db::Postgres).start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;
    let lock = lock_table(&db, "partition_gaps").await;
    let program = ackline(&stack, &["partitions", "resize", "3", "--yes"]);
    let mut command = stack.spawn(&program).unwrap();
    wait_until_blocked(&stack, "partition_gaps").await;
    until_accepted(&stack, status("a", "provisioning")).await;
    command.kill9();
    lock.rollback().await.unwrap();
    stack
        .wait_until("the worker goes on with the old checkpoints", SOON, async || {
            partitions(&db).await.iter().all(|row| row.generation == 1 && row.owner.is_some())
        })
        .await;
    let back = ackline(&stack, &["move", "--take-back", "--yes"]);
    let (code, text) = run(&stack, &back).await;
    assert_eq!(code, 1);
    assert!(text.contains("the move can only be finished"), "{text}");

    let (code, text) = resize(&stack, "3").await;
    assert_eq!(code, 0, "{text}");
    wait_for_status(&stack, &db, "a", Status::Provisioning).await;
    wait_until_applied(&stack, &db).await;
    assert_audited(&stack).await;
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
