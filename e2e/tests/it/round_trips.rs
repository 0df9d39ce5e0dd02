//! What a batch costs on PostgreSQL, read from the server's own log.

use std::collections::HashMap;

use e2e::stack::{Db, Stack};
use sea_orm::ConnectionTrait;

use crate::expect::*;

/// The statements of each transaction that moved a checkpoint, in order.
fn batches(log: &str) -> Vec<Vec<String>> {
    let mut open: HashMap<&str, Vec<String>> = HashMap::new();
    let mut batches = Vec::new();
    for line in log.lines() {
        let Some((before, statement)) = line.split_once("LOG:  ") else { continue };
        let Some((_, statement)) = statement.split_once(": ") else { continue };
        let Some((_, process)) = before.split_once('[') else { continue };
        let process = process.split(']').next().unwrap();
        if statement == "BEGIN" {
            open.insert(process, Vec::new());
        } else if statement == "COMMIT" {
            let statements = open.remove(process).unwrap_or_default();
            if statements.iter().any(|one| one.contains(r#""applied_seq" = "#)) {
                batches.push(statements);
            }
        } else if let Some(statements) = open.get_mut(process) {
            statements.push(statement.to_owned());
        }
    }
    batches
}

#[tokio::test]
async fn a_batch_of_any_size_takes_the_same_statements_and_one_of_them_is_the_fence() {
    let stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    let db = stack.db().await.unwrap();
    db.execute_unprepared("ALTER SYSTEM SET log_statement = 'all'").await.unwrap();
    db.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
    let event = |job: usize, word: &str| {
        let id = format!("job-{job}");
        serde_json::json!({ "job_id": id, "status": word, "event_id": format!("{id}-{word}") })
            .to_string()
    };
    accept(&stack, event(0, "queued")).await;
    wait_until_applied(&stack, &db).await;

    // While this table is locked, one callback waits in a batch of its own, and the others behind
    // it make the next one.
    let lock = lock_table(&db, "jobs").await;
    accept(&stack, event(0, "provisioning")).await;
    wait_until_blocked(&stack, "jobs").await;
    for job in 0..100 {
        accept(&stack, event(job, "running")).await;
    }
    lock.rollback().await.unwrap();
    wait_until_applied(&stack, &db).await;

    let batches = stack
        .wait_for("the server's log", SOON, async || {
            Some(batches(&stack.all_logs())).filter(|batches| batches.len() >= 3)
        })
        .await;
    assert_eq!(batches.len(), 3, "{batches:#?}");
    let kinds = |batch: &[String]| -> Vec<String> {
        let words = |statement: &String| {
            let words: Vec<&str> = statement.split_whitespace().take(3).collect();
            words.join(" ")
        };
        batch.iter().map(words).collect()
    };
    // The first two hold one callback each, the third a hundred.
    assert_eq!(kinds(&batches[1]), kinds(&batches[2]), "{batches:#?}");
    for batch in &batches {
        let on_partitions: Vec<&String> =
            batch.iter().filter(|statement| statement.contains(r#""partitions""#)).collect();
        assert_eq!(on_partitions.len(), 1, "{batch:#?}");
        assert!(on_partitions[0].starts_with(r#"UPDATE "partitions""#), "{batch:#?}");
        assert_eq!(batch[0], *on_partitions[0], "the fence comes first");
    }
    assert_audited(&stack).await;
}
