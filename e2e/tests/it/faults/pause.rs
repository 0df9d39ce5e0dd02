//! Workers that are paused (SIGSTOP) for longer than their lease, and go on as if no time had
//! passed.

use std::hash::{BuildHasher, Hasher, RandomState};

use e2e::load::Load;
use e2e::stack::{Db, Stack, Worker};
use rstest::rstest;
use sea_orm::{DatabaseConnection, EntityTrait};
use worker::entity::job::Status;

use super::figures::{conclude, endless};
use crate::expect::*;

/// A worker and the id that its process has in the database.
struct Owner {
    worker: Worker,
    id: String,
}

impl Owner {
    async fn start(stack: &Stack, db: &DatabaseConnection, name: &str) -> Self {
        let worker = stack.start_worker_with(&[("WORKER_ID", name)], &[]).await.unwrap();
        let rows = worker::entity::worker::Entity::find().all(db).await.unwrap();
        let id = rows.into_iter().find(|row| row.name == name).unwrap().id;
        Self { worker, id }
    }

    async fn owns(&self, db: &DatabaseConnection) -> usize {
        let rows = partitions(db).await;
        rows.iter().filter(|row| row.owner.as_deref() == Some(&self.id)).count()
    }
}

/// This many owners that share the partitions.
async fn owners(stack: &mut Stack, db: &DatabaseConnection, count: usize) -> Vec<Owner> {
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let mut owners = Vec::new();
    for number in 0..count {
        owners.push(Owner::start(stack, db, &format!("owner-{number}")).await);
    }
    wait_until_shared(stack, db, &owners).await;
    owners
}

async fn wait_until_shared(stack: &Stack, db: &DatabaseConnection, owners: &[Owner]) {
    stack
        .wait_until("the partitions are shared fairly", SOON, async || {
            let mut owned = 0;
            for owner in owners {
                let owns = owner.owns(db).await;
                if owns == 0 || owns > 16_usize.div_ceil(owners.len()) {
                    return false;
                }
                owned += owns;
            }
            owned == 16
        })
        .await;
}

async fn with_lease(lease: &str) -> (Stack, DatabaseConnection) {
    let stack = Stack::builder().db(Db::Postgres).env("LEASE", lease).start().await.unwrap();
    let db = stack.db().await.unwrap();
    (stack, db)
}

#[tokio::test]
async fn an_idle_owner_that_was_paused_repeats_nothing_when_it_wakes_up() {
    let (mut stack, db) = with_lease("1s").await;
    let owners = owners(&mut stack, &db, 2).await;
    let [paused, other] = &owners[..] else { unreachable!("two were started") };
    let report = Load::new(stack.ingress.addr, stack.secret(), 20).run().await.unwrap();
    wait_until_applied(&stack, &db).await;

    paused.worker.process.stop();
    stack.wait_until("the other owns everything", SOON, async || other.owns(&db).await == 16).await;
    let mut more = Load::new(stack.ingress.addr, stack.secret(), 20);
    more.prefix = "more".into();
    let mut more = more.run().await.unwrap();
    wait_until_applied(&stack, &db).await;

    // It wakes up and believes that it still owns its partitions.
    paused.worker.process.cont();
    accept(&stack, status("a", "queued")).await;
    wait_until_shared(&stack, &db, &owners).await;
    wait_for_status(&stack, &db, "a", Status::Queued).await;
    wait_until_applied(&stack, &db).await;
    more.jobs.extend(report.jobs);
    assert_load_exactly_once(&db, &more, &["a"]).await;
    assert_eq!(more.accepted(), 400);
    assert_audited(&stack).await;
}

/// Waits until some more of the load is applied, any amount of it, so that whoever is paused then
/// is in the middle of anything.
async fn until_some_more_is_applied(stack: &Stack, db: &DatabaseConnection) {
    let applied = async || partitions(db).await.iter().map(|row| row.applied_seq).sum::<i64>();
    let some = RandomState::new().build_hasher().finish() % 100;
    let enough = applied().await + 1 + some as i64;
    stack.wait_until("the load goes on", SOON, async || applied().await >= enough).await;
}

/// Pauses one worker after another; with `kills`, the next one is killed meanwhile.
#[rstest]
#[case::two(2, 2, false)]
#[ignore = "long: make test-faults"]
#[case::three_that_are_killed_too(3, 12, true)]
#[tokio::test]
async fn owners_that_are_paused_under_load_repeat_nothing(
    #[case] workers: usize,
    #[case] pauses: usize,
    #[case] kills: bool,
) {
    let (mut stack, db) = with_lease("1s").await;
    let mut owners = owners(&mut stack, &db, workers).await;
    let running = endless(&stack, 4).start();
    let mut fences = 0.0;
    for pause in 0..pauses {
        let (paused, killed) = (pause % workers, (pause + 1) % workers);
        until_some_more_is_applied(&stack, &db).await;
        owners[paused].worker.process.stop();
        if kills {
            owners[killed].worker.process.kill9();
        }
        stack
            .wait_until("its partitions are taken over", SOON, async || {
                owners[paused].owns(&db).await == 0
            })
            .await;
        until_some_more_is_applied(&stack, &db).await;
        owners[paused].worker.process.cont();
        if kills {
            owners[killed] = Owner::start(&stack, &db, &format!("after-{pause}")).await;
        }
        wait_until_shared(&stack, &db, &owners).await;
        fences += metric(&owners[paused].worker, "ackline_worker_fences_total").await;
    }
    conclude(&stack, running, &format!("{pauses} pauses, kills: {kills}"), &[]).await;
    assert!(fences >= 1.0, "nobody was late");
}

#[tokio::test]
async fn an_owner_that_is_paused_within_its_transaction_does_not_hold_its_partition_for_ever() {
    let (mut stack, db) = with_lease("2s").await;
    let owners = owners(&mut stack, &db, 2).await;
    let report = Load::new(stack.ingress.addr, stack.secret(), 20).run().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &db).await;

    // The batch has passed its fence and waits for this table when its process is paused.
    let lock = lock_table(&db, "job_events").await;
    accept(&stack, status("a", "provisioning")).await;
    wait_until_blocked(&stack, "job_events").await;
    let before = partitions(&db).await;
    let number = job(&db, "a").await.unwrap().partition as usize;
    let id = before[number].owner.as_deref();
    let owner = owners.iter().find(|owner| Some(owner.id.as_str()) == id).unwrap();
    owner.worker.process.stop();
    lock.rollback().await.unwrap();

    // Its session now holds the row, until the server ends it.
    wait_for_status(&stack, &db, "a", Status::Provisioning).await;
    let after = partitions(&db).await;
    assert_eq!(after[number].epoch, before[number].epoch + 1);
    assert_ne!(after[number].owner, before[number].owner);
    assert!(stack.all_logs().contains("due to idle-in-transaction timeout"));

    owner.worker.process.cont();
    let of_partition = format!(r#""partition":"{number:02}""#);
    stack
        .wait_until("it has noticed", SOON, async || {
            let log = owner.worker.process.log();
            log.find_line(|line| line.contains("anew") && line.contains(&of_partition)).is_some()
        })
        .await;
    accept(&stack, status("a", "running")).await;
    wait_for_status(&stack, &db, "a", Status::Running).await;
    wait_until_shared(&stack, &db, &owners).await;
    wait_until_applied(&stack, &db).await;
    assert_load_exactly_once(&db, &report, &["a"]).await;
    let of_a = events(&db).await.into_iter().filter(|event| event.job_id == "a");
    let statuses: Vec<_> = of_a.map(|event| event.to_status).collect();
    assert_eq!(statuses, [Status::Queued, Status::Provisioning, Status::Running].map(Some));
    assert_audited(&stack).await;
}
