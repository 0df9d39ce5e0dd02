//! What workers ask of the broker that own nothing: next to nothing, unless somebody watches them.

use std::collections::HashMap;

use async_nats::Subscriber;
use e2e::stack::{Db, Stack};
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::task::unconstrained;

use crate::expect::*;

/// How often each worker has asked the broker to describe a stream, by the broker's own account.
struct Descriptions {
    told: Subscriber,
    by_client: HashMap<u64, usize>,
}

impl Descriptions {
    async fn count(stack: &Stack) -> Self {
        let client = stack.nats.client().await.unwrap();
        let told = client.subscribe("$JS.EVENT.ADVISORY.API").await.unwrap();
        client.flush().await.unwrap();
        Self { told, by_client: HashMap::new() }
    }

    /// Reads what the broker has told so far.
    fn read(&mut self) -> &HashMap<u64, usize> {
        // Tokio would let a task wait after so many messages.
        while let Some(Some(message)) = unconstrained(self.told.next()).now_or_never() {
            let asked: Value = serde_json::from_slice(&message.payload).unwrap();
            // Ingress has questions of its own.
            let is_worker = asked["client"]["name"].as_str().unwrap().contains("worker");
            let subject = asked["subject"].as_str().unwrap();
            if is_worker && subject.starts_with("$JS.API.STREAM.INFO.") {
                let client = asked["client"]["id"].as_u64().unwrap();
                *self.by_client.entry(client).or_default() += 1;
            }
        }
        &self.by_client
    }
}

#[tokio::test]
async fn a_worker_that_owns_nothing_asks_the_broker_for_next_to_nothing_until_somebody_watches() {
    // With each renewal a worker asks for one stream, to know whether it hears the broker.
    let builder = Stack::builder().db(Db::Postgres).partitions(1).env("LEASE", "60s");
    let stack = builder.start().await.unwrap();
    let db = stack.db().await.unwrap();
    stack
        .wait_until("the first worker owns the partition", SOON, async || {
            partitions(&db).await[0].owner.is_some()
        })
        .await;
    let mut descriptions = Descriptions::count(&stack).await;
    let idle = stack.start_worker_with(&[], &[]).await.unwrap();
    // The owner looks at its stream every five seconds, and for silent jobs every three.
    stack
        .wait_until("the owner has looked twice", SOON, async || {
            descriptions.read().values().any(|count| *count >= 6)
        })
        .await;
    let counts = descriptions.read();
    assert_eq!(counts.len(), 2, "{counts:?}");
    // At its start it asks for each stream, and for one that there must not be. Then it looks at each
    // once, and renews once.
    assert!(*counts.values().min().unwrap() <= 4, "{counts:?}");

    // Whoever asks it is told how things are now.
    accept(&stack, status("job", "running")).await;
    wait_until_applied(&stack, &db).await;
    stack
        .wait_until("it tells how things are", SOON, async || {
            let answer = e2e::http::get(idle.ops, "/api/v1/overview").await.unwrap();
            let overview: Value = serde_json::from_slice(&answer.body).unwrap();
            let partition = &overview["partitions"][0];
            let found = [&partition["applied_seq"], &partition["stream"]["last_seq"]];
            found == [1, 1] && overview["jobs"]["running"] == 1
        })
        .await;
}
