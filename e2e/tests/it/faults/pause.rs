//! Workers that are paused (SIGSTOP) for longer than their lease, and go on as if no time had
//! passed.

use std::hash::{BuildHasher, Hasher, RandomState};

use e2e::load::{Load, Report};
use e2e::stack::{Db, Stack, Worker};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, TransactionTrait};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use worker::entity::job::Status;

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

/// A load that goes on until it is told to end.
struct Endless {
    end: oneshot::Sender<()>,
    sending: JoinHandle<Report>,
}

impl Endless {
    fn start(stack: &Stack) -> Self {
        let (end, mut ended) = oneshot::channel();
        let mut load = Load::new(stack.ingress.addr, stack.secret(), 40);
        load.connections = 4;
        let sending = tokio::spawn(async move {
            let mut all: Option<Report> = None;
            for number in 0.. {
                load.prefix = format!("load-{number}");
                let report = load.clone().run().await.unwrap();
                match &mut all {
                    Some(all) => all.jobs.extend(report.jobs),
                    None => all = Some(report),
                }
                if ended.try_recv().is_ok() {
                    break;
                }
            }
            all.unwrap()
        });
        Self { end, sending }
    }

    async fn finish(self) -> Report {
        self.end.send(()).unwrap();
        self.sending.await.unwrap()
    }
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
async fn paused_under_load(workers: usize, pauses: usize, kills: bool) {
    let (mut stack, db) = with_lease("1s").await;
    let mut owners = owners(&mut stack, &db, workers).await;
    let load = Endless::start(&stack);
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
    let report = load.finish().await;
    wait_until_applied(&stack, &db).await;
    assert_exactly_once(&db, &report).await;
    // What is applied again has the key of what it repeats, and would be refused.
    assert_eq!(dead_letters(&db).await.len(), 0);
    assert!(fences >= 1.0, "nobody was late");
    println!("{} callbacks, {pauses} pauses, kills: {kills}", report.accepted());
    assert_audited(&stack).await;
}

#[tokio::test]
async fn owners_that_are_paused_under_load_repeat_nothing() {
    paused_under_load(2, 2, false).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn three_owners_that_are_paused_and_killed_under_load_repeat_nothing() {
    paused_under_load(3, 12, true).await;
}

#[tokio::test]
async fn an_owner_that_is_paused_within_its_transaction_does_not_hold_its_partition_for_ever() {
    let (mut stack, db) = with_lease("2s").await;
    let owners = owners(&mut stack, &db, 2).await;
    let report = Load::new(stack.ingress.addr, stack.secret(), 20).run().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &db).await;

    // The batch has passed its fence and waits for this table when its process is paused.
    let lock = db.begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    let postgres = stack.postgres.as_ref().unwrap();
    let waiting = "SELECT count(*) FROM pg_locks \
                   WHERE NOT granted AND relation = 'job_events'::regclass";
    stack
        .wait_until("the batch has passed its fence", SOON, async || {
            postgres.psql(waiting).await.unwrap().trim() == "1"
        })
        .await;
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
