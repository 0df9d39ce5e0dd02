//! A node of three that is left alone still describes its copies of the streams, which may be old.

use async_nats::jetstream;
use e2e::stack::Stack;
use shared::partition::Partition;
use shared::stream::{find, has_leader};
use worker::entity::job::Status;

use super::figures::wait_until_whole;
use crate::expect::*;

/// Runs a command of `ackline`; whether it succeeded, and what it said.
async fn ask(stack: &Stack, node: &str, args: &[&str]) -> (bool, String) {
    let program = stack.program("ackline").unwrap().env("NATS_URL", node).args(args);
    let mut process = stack.spawn(&program).unwrap();
    let ended = process.wait(SOON).await.unwrap();
    (ended.success(), process.log().text())
}

#[tokio::test]
async fn what_a_node_alone_says_of_a_stream_is_not_believed() {
    let mut stack = Stack::builder().cluster().partitions(1).start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "running")).await;
    wait_for_status(&stack, &db, "a", Status::Running).await;
    wait_until_whole(&stack).await;

    stack.nats.node_mut(0).process.kill9();
    stack.nats.node_mut(1).process.kill9();
    let url = stack.nats.node(2).url();
    let broker = jetstream::new(async_nats::connect(&url).await.unwrap());
    stack
        .wait_until("the node describes the stream without a leader", SOON, async || {
            let info = find(&broker, Partition::new(0)).await.ok().flatten();
            info.is_some_and(|info| !has_leader(&info))
        })
        .await;

    let (is_clean, audit) = ask(&stack, &url, &["audit"]).await;
    let (is_done, prune) = ask(&stack, &url, &["prune", "--older-than", "1ms", "--json"]).await;
    let say_so = [&audit, &prune].map(|said| said.contains("has no leader"));
    assert_eq!(say_so, [true, true], "{audit}\n{prune}");
    assert_eq!((is_clean, is_done), (false, true));
    let row = &partitions(&db).await[0];
    assert_eq!((row.applied_seq, &row.stopped_reason), (1, &None));
}
