//! Somebody else holds a row locked, or a snapshot open.

use std::time::Duration;

use e2e::stack::{Db, Stack};
use sea_orm::sea_query::PostgresQueryBuilder;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};
use serde_json::Value;
use shared::partition::Layout;
use worker::entity::job::Status;
use worker::store::batch::{Checkpoint, Ownership, fence_statement};
use worker::store::partitions::{self as store, Claim, Place};

use crate::expect::*;

const PARTITIONS: u16 = 4;
/// Shorter than a statement may wait for a lock otherwise.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_locked_row_holds_up_its_partition_alone_and_there_only_what_follows_it() {
    let builder = Stack::builder().db(Db::Postgres).partitions(PARTITIONS).env("LEASE", "2s");
    let mut stack = builder.start().await.unwrap();
    let db = stack.db().await.unwrap();
    let others: Vec<_> = (1..PARTITIONS)
        .map(|n| id_in(Layout::new(1, PARTITIONS).partition(n).unwrap(), "other"))
        .collect();
    let locked = id_in(Layout::new(1, PARTITIONS).partition(0).unwrap(), "locked");
    for id in others.iter().chain([&locked]) {
        accept(&stack, status(id, "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());

    // All three can be one batch.
    let before = id_in(Layout::new(1, PARTITIONS).partition(0).unwrap(), "before");
    let after = id_in(Layout::new(1, PARTITIONS).partition(0).unwrap(), "after");
    for (id, to) in [(&before, "queued"), (&locked, "provisioning"), (&after, "queued")] {
        accept(&stack, status(id, to)).await;
    }
    let lock = db.begin().await.unwrap();
    let sql = format!("SELECT 1 FROM jobs WHERE id = '{locked}' FOR UPDATE");
    lock.execute_unprepared(&sql).await.unwrap();
    stack.start_worker().await.unwrap();
    stack
        .wait_until("what comes before the locked row is applied", LIMIT, async || {
            job(&db, &before).await.is_some()
        })
        .await;
    let begun = partitions(&db).await;
    // The others go on for longer than a lease, and keep theirs.
    let is_renewed = async || {
        let rows = partitions(&db).await;
        rows.iter().zip(&begun).skip(1).all(|(now, then)| {
            let ahead = now.lease_until.unwrap() - then.lease_until.unwrap();
            ahead > chrono::TimeDelta::seconds(4)
        })
    };
    let mut beats = 0;
    while !is_renewed().await {
        beats += 1;
        for id in &others {
            accept(&stack, heartbeat(id)).await;
        }
        stack
            .wait_until("the other partitions go on", LIMIT, async || {
                let jobs = jobs(&db).await;
                let beat = |id: &String| {
                    jobs.iter().any(|job| job.id == *id && job.heartbeat_count == beats)
                };
                others.iter().all(beat)
            })
            .await;
    }
    for (now, then) in partitions(&db).await.iter().zip(&begun).skip(1) {
        assert_eq!(now.epoch, then.epoch, "partition {} changed hands", now.partition);
    }
    assert_eq!(job(&db, &locked).await.unwrap().status, Status::Queued);
    assert!(job(&db, &after).await.is_none());

    lock.rollback().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(job(&db, &locked).await.unwrap().status, Status::Provisioning);
    assert!(job(&db, &after).await.is_some());
    assert_audited(&stack).await;
}

/// How many blocks the fence of such an owner reads. Nothing changes.
async fn blocks_read(db: &DatabaseConnection, mine: &Ownership, place: Place) -> i64 {
    let mine = Ownership { place, ..mine.clone() };
    let checkpoint = Checkpoint {
        seq: 1,
        msg_id: None,
        received_at: chrono::DateTime::UNIX_EPOCH,
        stream_created_at: chrono::DateTime::UNIX_EPOCH,
        callbacks: 1,
    };
    let fence = fence_statement(DbBackend::Postgres, &mine, &checkpoint, SOON);
    let fence = fence.to_string(PostgresQueryBuilder);
    let transaction = db.begin().await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {fence}");
    let explain = Statement::from_string(DbBackend::Postgres, explain);
    let row = transaction.query_one_raw(explain).await.unwrap().unwrap();
    transaction.rollback().await.unwrap();
    let plan: Value = row.try_get_by_index(0).unwrap();
    let scan = &plan[0]["Plan"]["Plans"][0];
    assert_eq!(scan["Actual Rows"].as_f64(), Some(1.0), "{plan}");
    scan["Shared Hit Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn a_snapshot_that_stays_open_does_not_make_the_fence_read_more() {
    let builder = Stack::builder().db(Db::Postgres).partitions(1);
    let mut stack = builder.start().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let db = stack.db().await.unwrap();
    let claim = Claim { generation: 1, me: "test", lease: SOON, alone: false, watch_gap: None };
    let row = store::acquire(&db, 0, claim).await.unwrap().unwrap();
    let mine = Ownership {
        generation: 1,
        partition: 0,
        epoch: row.epoch,
        owner: "test".into(),
        applied_seq: row.applied_seq,
        dead_letters_in_row: 0,
        place: Place::default(),
    };
    let place = async || store::renew(&db, "test", SOON, Duration::ZERO).await.unwrap()[&0].place();
    let fresh = blocks_read(&db, &mine, place().await).await;

    let snapshot = db.begin().await.unwrap();
    snapshot.execute_unprepared("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    snapshot.execute_unprepared("SELECT 1").await.unwrap();
    let batches = "DO $$ BEGIN FOR batch IN 1..2000 LOOP \
                   UPDATE partitions SET applied_callbacks = batch; COMMIT; END LOOP; END $$";
    stack.postgres.as_ref().unwrap().psql(batches).await.unwrap();
    let by_place = blocks_read(&db, &mine, place().await).await;
    let by_key = blocks_read(&db, &mine, Place::default()).await;
    snapshot.rollback().await.unwrap();
    assert!(by_place <= fresh, "{by_place} blocks by place, {fresh} at first");
    assert!(by_key > 10 * by_place, "the snapshot keeps nothing: {by_key} blocks by key");
}
