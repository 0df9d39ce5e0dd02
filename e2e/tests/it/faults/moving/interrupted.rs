//! Moves that are killed at their steps, and one that must wait.

use std::time::Duration;

use e2e::stack::{Db, Stack};
use futures::StreamExt;
use shared::partition::Layout;
use shared::stream::find_open;
use worker::entity::job::Status;
use worker::store::partitions::{Claim, acquire};

use super::*;
use crate::expect::*;

/// Starts a command, and kills it with the so-many-th change of streams that it asks the broker for.
/// Returns whether it came so far.
pub(in crate::faults) async fn killed_at_change(
    stack: &Stack,
    args: &[&str],
    number: usize,
) -> bool {
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
    let (code, output) = resize(&stack, "2").await;
    let why = "ackline: another command moves the streams of this database: wait for it, or end it";
    assert!(code == 1 && output.contains(why), "{output}");
    let take_back = ackline(&stack, &["move", "--take-back", "--yes"]);
    let (code, output) = run(&stack, &take_back).await;
    assert!(code == 1 && output.contains(why), "{output}");
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
