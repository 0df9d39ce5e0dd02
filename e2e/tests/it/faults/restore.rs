//! A backup is put back: the worker goes on from its checkpoint and arrives at the same rows.

use std::path::PathBuf;

use async_nats::jetstream;
use e2e::load::{Load, Report};
use e2e::stack::{Db, Stack};
use rstest::rstest;
use sea_orm::ConnectionTrait;
use shared::partition::Layout;
use worker::entity::{dead_letter, job, job_event};

use crate::expect::*;
use crate::faults::ownership::stopped;

/// How a backup is made and put back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// The file, while no worker runs.
    SqliteFile,
    /// `VACUUM INTO` beside a running worker.
    SqliteVacuum,
    /// pg_dump beside a running worker, and pg_restore.
    PostgresDump,
    /// The cluster's files, while the server is stopped; the worker waits for it.
    PostgresFiles,
}

impl Way {
    fn db(self) -> Db {
        match self {
            Self::SqliteFile | Self::SqliteVacuum => Db::Sqlite,
            Self::PostgresDump | Self::PostgresFiles => Db::Postgres,
        }
    }

    pub(crate) async fn back_up(self, stack: &mut Stack, name: &str) {
        match self {
            Self::SqliteFile => {
                assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
                // Whoever closes the file last leaves everything in it.
                std::fs::copy(sqlite(stack), stack.dir().join(name)).unwrap();
                stack.start_worker().await.unwrap();
            }
            Self::SqliteVacuum => {
                let into = format!("VACUUM INTO '{}'", stack.dir().join(name).display());
                let db = stack.db().await.unwrap();
                db.execute_unprepared(&into).await.unwrap();
                db.close().await.unwrap();
            }
            Self::PostgresDump => stack.postgres.as_ref().unwrap().dump(name).await.unwrap(),
            Self::PostgresFiles => {
                stack.postgres.as_mut().unwrap().copy_files(name).await.unwrap();
            }
        }
    }

    /// Puts a backup back while no worker runs, and starts one.
    pub(crate) async fn put_back(self, stack: &mut Stack, name: &str) {
        if stack.worker.process.is_running() {
            assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
        }
        match self {
            Self::SqliteFile | Self::SqliteVacuum => {
                let file = sqlite(stack);
                for suffix in ["-wal", "-shm"] {
                    // Its own, if there are any, would be taken for the backup's.
                    let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
                }
                std::fs::copy(stack.dir().join(name), file).unwrap();
            }
            Self::PostgresDump => stack.postgres.as_ref().unwrap().restore(name).await.unwrap(),
            Self::PostgresFiles => {
                stack.postgres.as_mut().unwrap().put_files_back(name).await.unwrap();
            }
        }
        stack.start_worker().await.unwrap();
    }
}

fn sqlite(stack: &Stack) -> PathBuf {
    stack.dir().join("ackline.db")
}

/// All that the stream has done to the database.
#[derive(Debug, PartialEq)]
struct Rows {
    jobs: Vec<job::Model>,
    events: Vec<job_event::Model>,
    dead_letters: Vec<dead_letter::Model>,
    checkpoints: Vec<(i64, Option<String>)>,
}

/// Waits until every stream is applied to its end, and returns what came of it.
async fn rows(stack: &Stack) -> Rows {
    let db = stack.db().await.unwrap();
    wait_until_applied(stack, &db).await;
    let checkpoints = partitions(&db).await;
    let rows = Rows {
        jobs: jobs(&db).await,
        events: events(&db).await,
        dead_letters: dead_letters(&db).await,
        checkpoints: checkpoints
            .into_iter()
            .map(|row| (row.applied_seq, row.applied_msg_id))
            .collect(),
    };
    db.close().await.unwrap();
    rows
}

fn load(stack: &Stack, prefix: &str) -> Load {
    let mut load = Load::new(stack.ingress.addr, stack.secret(), 30);
    load.prefix = prefix.to_owned();
    load
}

/// A dead letter, with a callback that is held behind it.
async fn accept_poison(stack: &Stack, job_id: &str) {
    accept(stack, poison(job_id)).await;
    accept(stack, status(job_id, "provisioning")).await;
}

#[rstest]
#[case::copy_of_an_sqlite_file(Way::SqliteFile)]
#[case::vacuum_of_an_sqlite_file(Way::SqliteVacuum)]
#[case::dump_of_postgres(Way::PostgresDump)]
#[ignore = "long: make test-faults"]
#[case::copy_of_postgres(Way::PostgresFiles)]
#[tokio::test]
async fn a_restored_backup_catches_up(#[case] way: Way) {
    // The rows that are put back name an owner, whose lease its successor waits for.
    let builder = Stack::builder().db(way.db()).partitions(4).env("LEASE", "1s");
    let mut stack = builder.start().await.unwrap();
    refuse_poison(&stack, way.db()).await;
    accept_poison(&stack, "bad-1").await;
    accept_poison(&stack, "bad-2").await;
    let running = load(&stack, "before").start();
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= 100).await;
    way.back_up(&mut stack, "backup").await;

    let mut report = running.finish().await.unwrap();
    accept_poison(&stack, "bad-3").await;
    rows(&stack).await;
    // What people decide goes through the stream too.
    let letters = stack.ackline_json(&["dead-letters", "list", "--json"]).await.unwrap();
    let dead = letters.as_array().unwrap().iter().find(|letter| letter["job_id"] == "bad-2");
    let position = dead.unwrap()["position"].as_str().unwrap();
    stack.ackline_json(&["dead-letters", "discard", position, "--json"]).await.unwrap();
    report.jobs.extend(load(&stack, "after").run().await.unwrap().jobs);
    let before = rows(&stack).await;
    assert_eq!(before.dead_letters.len(), 5);

    way.put_back(&mut stack, "backup").await;
    assert_eq!(rows(&stack).await, before);
    report.jobs.extend(load(&stack, "restored").run().await.unwrap().jobs);
    let after = rows(&stack).await;
    assert_eq!(after.dead_letters, before.dead_letters);
    let db = stack.db().await.unwrap();
    assert_load_exactly_once(&db, &report, &["bad-2"]).await;
    println!("{way:?}: {} callbacks, {} events", report.accepted(), after.events.len());
    assert_audited(&stack).await;
}

/// A stack on PostgreSQL with a backup of what it has applied.
async fn backed_up(lease: &str) -> (Stack, Report) {
    let builder = Stack::builder().db(Db::Postgres).partitions(4).env("LEASE", lease);
    let stack = builder.start().await.unwrap();
    let report = load(&stack, "before").run().await.unwrap();
    rows(&stack).await;
    stack.postgres.as_ref().unwrap().dump("backup").await.unwrap();
    (stack, report)
}

#[tokio::test]
async fn a_worker_that_runs_through_a_restore_applies_nothing_on_top_of_it() {
    // Renewals are twenty minutes apart, the connections live on, and the row names this worker and
    // its epoch: only the checkpoint in the fence can notice.
    let (stack, mut report) = backed_up("1h").await;
    report.jobs.extend(load(&stack, "after").run().await.unwrap().jobs);
    rows(&stack).await;
    stack.postgres.as_ref().unwrap().restore("backup").await.unwrap();
    report.jobs.extend(load(&stack, "restored").run().await.unwrap().jobs);
    assert_all_applied(&stack, &report).await;
    assert!(metric(&stack.worker, "ackline_worker_fences_total").await > 0.0);
}

#[tokio::test]
async fn a_worker_that_was_paused_before_a_restore_applies_nothing_when_it_wakes_up() {
    let (mut stack, mut report) = backed_up("1s").await;
    // Another process goes on, in the next epoch.
    stack.start_worker().await.unwrap();
    report.jobs.extend(load(&stack, "after").run().await.unwrap().jobs);
    rows(&stack).await;

    stack.worker.process.stop();
    let owned = partitions(&stack.db().await.unwrap()).await;
    stack.postgres.as_ref().unwrap().restore("backup").await.unwrap();
    // It has these before its eyes when it wakes up.
    report.jobs.extend(load(&stack, "paused").run().await.unwrap().jobs);
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    for (row, end) in owned.into_iter().zip(stream_ends(&stack).await) {
        let partition = Layout::new(1, e2e::stack::PARTITIONS).partition(row.partition).unwrap();
        let stream = jetstream.get_stream(partition.stream()).await.unwrap();
        let consumer = format!("worker-{}-{}", row.epoch, row.owner.unwrap());
        // A worker has always asked for so many messages, and not for all.
        let delivered = end.min(u64::try_from(row.applied_seq).unwrap() + 16);
        stack
            .wait_until("messages are delivered to the paused worker", SOON, async || {
                let info = stream.consumer_info(&consumer).await.unwrap();
                info.delivered.stream_sequence >= delivered
            })
            .await;
    }

    // Its successor counts the same epochs again, and does not know of its consumers.
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    let caught_up = rows(&stack).await;
    let log = stack.worker.process.log();
    stack.worker.process.cont();
    stack
        .wait_until("it drops what it has", SOON, async || {
            // The fence does that, unless the broker has missed it for so long that it asks anew.
            let drops = |line: &str| line.contains("fenced") || line.contains("partition anew");
            log.find_line(drops).is_some()
        })
        .await;
    assert_eq!(rows(&stack).await, caught_up);
    report.jobs.extend(load(&stack, "together").run().await.unwrap().jobs);
    assert_all_applied(&stack, &report).await;
    drop(second);
}

#[rstest]
#[case::on_sqlite(Way::SqliteFile)]
#[ignore = "long: make test-faults"]
#[case::on_postgres(Way::PostgresFiles)]
#[tokio::test]
async fn a_backup_from_before_the_stream_begins_stops(#[case] way: Way) {
    let mut stack = Stack::builder()
        .db(way.db())
        .partitions(1)
        .env("LEASE", "1s")
        .env("REPLAY_HORIZON", "1s")
        .start()
        .await
        .unwrap();
    for step in ["queued", "provisioning"] {
        accept(&stack, status("a", step)).await;
    }
    let old = rows(&stack).await;
    way.back_up(&mut stack, "old").await;
    accept(&stack, status("a", "running")).await;
    for step in ["queued", "provisioning", "running"] {
        accept(&stack, status("b", step)).await;
    }
    let new = rows(&stack).await;
    let first = async |stack: &Stack| first_stream(stack).await.cached_info().state.first_sequence;
    stack.wait_until("what is applied is trimmed", SOON, async || first(&stack).await == 6).await;
    way.back_up(&mut stack, "new").await;

    way.put_back(&mut stack, "old").await;
    let reason = "the stream begins at 6, but only 2 is applied: messages were removed";
    stopped(&stack, reason).await;
    let shown = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    assert!(shown[0]["stopped_reason"].as_str().unwrap().contains(reason), "{shown}");
    // What arrives meanwhile is accepted, and waits.
    accept(&stack, status("c", "queued")).await;
    let db = stack.db().await.unwrap();
    let rows_now = (jobs(&db).await, events(&db).await);
    assert_eq!(rows_now, (old.jobs, old.events), "nothing was skipped to go on");
    assert_eq!(first(&stack).await, 6, "nothing was removed");
    db.close().await.unwrap();

    // A younger backup mends it.
    way.put_back(&mut stack, "new").await;
    let mended = rows(&stack).await;
    assert_eq!(mended.jobs[..2], new.jobs);
    assert_eq!(mended.events[..6], new.events);
    assert_eq!((mended.jobs.len(), mended.events.len()), (3, 7));
    assert_audited(&stack).await;
}
