//! Several workers, some of which crash while they look for silent jobs.

use std::collections::BTreeMap;

use e2e::load::Load;
use rstest::rstest;
use sea_orm::TransactionTrait;
use worker::entity::job_event::Model as JobEvent;

use super::*;
use crate::rebuild::{another, rebuild, rows};

/// Each silence takes effect once: between two signs of life a job is presumed failed only once, and
/// what is told of it again changes nothing.
fn assert_once(events: &[JobEvent]) {
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == Kind::Lost) {
        let effects = open.entry(&event.job_id).or_default();
        match event.outcome {
            Effect::Applied => *effects += 1,
            Effect::Unchanged | Effect::Ignored => {}
            Effect::Revived => panic!("{event:?}"),
        }
        assert_eq!(*effects, 1, "{event:?}");
    }
}

#[rstest]
#[case::three(Db::Postgres, 3, 1, 60)]
#[ignore = "long: make test-faults"]
#[case::three_often(Db::Postgres, 3, 20, 300)]
#[case::one(Db::Sqlite, 1, 1, 60)]
#[ignore = "long: make test-faults"]
#[case::one_often(Db::Sqlite, 1, 5, 300)]
#[tokio::test]
async fn each_silence_is_presumed_once_although_workers_crash(
    #[case] db: Db,
    #[case] workers: usize,
    #[case] kills: usize,
    #[case] count: usize,
) {
    let mut stack = Stack::builder()
        .db(db)
        .partitions(4)
        .env("HEARTBEAT_TIMEOUT", "4s")
        .env("LEASE", "1s")
        .env("BATCH_MAX", "20")
        .start()
        .await
        .unwrap();
    let live = stack.db().await.unwrap();
    let mut others = Vec::new();
    for _ in 1..workers {
        others.push(stack.start_worker_with(&[], &[]).await.unwrap());
    }
    // Half of the jobs fall silent, some before each crash, and half go through beside them.
    let load = Load::new(stack.ingress.addr, stack.secret(), count / 2);
    let silent: Vec<String> = (0..count / 2).map(|number| format!("silent-{number}")).collect();
    let running = load.start();
    for (kill, ids) in silent.chunks(silent.len().div_ceil(kills)).enumerate() {
        for id in ids {
            accept(&stack, status(id, "provisioning")).await;
        }
        // The first that is presumed tells that a sweep is under way.
        stack
            .wait_until("some are presumed failed", SOON, async || {
                let jobs = jobs(&live).await;
                jobs.iter().any(|job| ids.contains(&job.id) && is_presumed(job))
            })
            .await;
        if others.is_empty() {
            stack.start_worker().await.unwrap();
        } else {
            let victim = kill % others.len();
            others[victim].process.kill9();
            others[victim] = stack.start_worker_with(&[], &[]).await.unwrap();
        }
    }
    let report = running.finish().await.unwrap();
    stack
        .wait_until("all that are silent are presumed failed", SOON, async || {
            let jobs = jobs(&live).await;
            jobs.iter().filter(|job| is_presumed(job)).count() >= silent.len()
        })
        .await;
    wait_until_applied(&stack, &live).await;

    for id in &silent {
        assert!(is_presumed(&job(&live, id).await.unwrap()), "{id}");
    }
    assert_eq!(report.jobs.len(), count / 2);
    for sent in &report.jobs {
        assert!(!is_presumed(&job(&live, &sent.job_id).await.unwrap()), "{}", sent.job_id);
    }
    let events = events(&live).await;
    let told = events.iter().filter(|event| event.kind == Kind::Lost).count();
    assert_once(&events);
    println!("{} silent jobs, told of {told} times, {kills} crashes", silent.len());

    // The rows are those that the stream gives. Nobody owns it meanwhile: a worker would go on.
    assert_audited(&stack).await;
    for other in &mut others {
        assert!(other.process.terminate(SOON).await.unwrap().success());
    }
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let expected = rows(&live).await;
    let (url, empty) = another(&stack, db, "rebuilt").await;
    let (code, output) = rebuild(&stack, &url, &[]).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(rows(&empty).await, expected);
}

/// An owner tells of nothing more until what it told of is applied.
#[tokio::test]
async fn a_silence_is_told_of_once_however_long_it_takes_to_be_applied() {
    let stack = impatient(Db::Postgres, "3s").env("LEASE", "30s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    for id in ["a", "b", "c", "d"] {
        accept(&stack, status(id, "provisioning")).await;
    }
    wait_until_applied(&stack, &db).await;
    stack
        .wait_until("both partitions are watched", SOON, async || {
            partitions(&db).await.iter().all(|row| row.watched_since.is_some())
        })
        .await;
    // No batch begins while somebody else holds these rows; they can still be read.
    let lock = db.begin().await.unwrap();
    lock.execute_unprepared("SELECT * FROM partitions FOR UPDATE").await.unwrap();
    let told = async || metric(&stack.worker, "ackline_worker_lost_total").await;
    stack.wait_until("all are told of", SOON, async || told().await >= 4.0).await;
    // Five looks' time.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    lock.rollback().await.unwrap();
    for id in ["a", "b", "c", "d"] {
        wait_until_presumed(&stack, &db, id).await;
    }
    wait_until_applied(&stack, &db).await;
    assert_eq!(told().await, 4.0);
    let lost = events(&db).await.into_iter().filter(|event| event.kind == Kind::Lost);
    assert_eq!(lost.count(), 4);
    assert_audited(&stack).await;
}
