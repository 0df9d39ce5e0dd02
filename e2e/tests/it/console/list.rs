//! A long list of jobs.

use std::collections::HashSet;

use e2e::browser;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};
use serde_json::{Value, json};

use super::{base, json as ask};
use crate::expect::on_each_database;

/// The last job is the same, however many there are.
const END: usize = 100_000;

/// Puts so many jobs into a database, a second apart from each other and long ago; every tenth has
/// failed.
async fn fill(db: &DatabaseConnection, jobs: usize) {
    let (id, created) = match db.get_database_backend() {
        DbBackend::Sqlite => (
            "printf('bulk-%07d', n)",
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', 1700000000 + n, 'unixepoch')",
        ),
        _ => ("'bulk-' || lpad(n::text, 7, '0')", "to_timestamp(1700000000 + n)"),
    };
    db.execute_unprepared(&format!(
        "INSERT INTO jobs (id, status, failure, error, run_count, heartbeat_count, \
         created_at, updated_at, partition, first_seq, first_idx, last_seq, last_idx) \
         WITH RECURSIVE numbers (n) AS \
         (SELECT {END} - {jobs} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {END}) \
         SELECT {id}, CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'running' END, \
         CASE WHEN n % 10 = 0 THEN 'reported' END, CASE WHEN n % 10 = 0 THEN 'no capacity' END, \
         0, 0, {created}, {created}, n % 2, n, 0, n, 0 FROM numbers"
    ))
    .await
    .unwrap();
}

on_each_database!(many_jobs_can_be_paged_through_and_searched);

async fn many_jobs_can_be_paged_through_and_searched(db: Db) {
    can_be_paged_through_and_searched(db, 2_000, db == Db::Sqlite).await;
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn a_hundred_thousand_jobs_can_be_paged_through_and_searched() {
    for db in Db::ALL {
        can_be_paged_through_and_searched(db, END, true).await;
    }
}

/// Through the API, and by hand.
async fn can_be_paged_through_and_searched(db: Db, jobs: usize, by_hand: bool) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let database = stack.db().await.unwrap();
    fill(&database, jobs).await;

    // All of them, each once, the newest first.
    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=500".to_owned();
    loop {
        let page = ask(&stack, &path, 200).await;
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/jobs?limit=500&after={next}");
    }
    assert_eq!(seen.len(), jobs);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), jobs);
    assert!(seen.is_sorted_by(|a, b| a > b));

    let filtered = "/api/v1/jobs?status=failed&search=BULK-00999&limit=500";
    let found = ask(&stack, filtered, 200).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 10);
    let between = "created_from=2023-11-16T01:59:50Z&created_before=2023-11-16T01:59:55Z";
    let found = ask(&stack, &format!("/api/v1/jobs?{between}"), 200).await;
    let found: Vec<_> = found["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    let wanted: Vec<Value> = (0..5).rev().map(|n| format!("bulk-009999{n}").into()).collect();
    assert_eq!(found, wanted.iter().collect::<Vec<_>>());

    if !by_hand {
        return;
    }
    let parameters = json!({ "base": base(&stack) });
    let shown = browser::run(stack.dir(), "list.mjs", &parameters).await.unwrap();
    let pages: Vec<Vec<String>> = serde_json::from_value(shown["pages"].clone()).unwrap();
    assert_eq!(pages.concat(), seen[..200]);
    assert_eq!(shown["skip"], "To the content");
    assert_eq!(shown["filtered"]["ids"].as_array().unwrap().len(), 50, "{shown:#}");
    assert_eq!(shown["filtered"]["statuses"][49], "failed");
    assert_eq!(shown["kept"], json!(["failed", "BULK-0099"]));
    assert_eq!(shown["title"], "Job bulk-0099990");
    assert_eq!(shown["violations"], json!([]));
}
