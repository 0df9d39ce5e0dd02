//! `ackline move` and `ackline partitions resize`.

pub(super) mod interrupted;
mod other_streams;

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use e2e::load::Load;
use e2e::stack::{Builder, Db, Stack};
use sea_orm::DatabaseConnection;
use serde_json::json;
use shared::partition::Layout;
use shared::stream::{find_open, generations};

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
    let last = |seq: i64| seq >= 3_000_000_000;
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
