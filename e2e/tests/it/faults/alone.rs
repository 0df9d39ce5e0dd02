//! A node of three that is left alone still describes its copies of the streams, which may be old.

use async_nats::jetstream;
use e2e::stack::Stack;
use shared::partition::Layout;
use shared::stream::{find, has_leader};
use worker::entity::job::Status;

use super::figures::wait_until_whole;
use crate::expect::*;

/// Nodes take more than ten seconds to miss their leader. `worker/tests/rules/verdict.rs` shows what
/// follows from that.
#[tokio::test]
#[ignore = "long: make test-faults"]
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
            let info = find(&broker, Layout::new(1, 1).first()).await.ok().flatten();
            info.is_some_and(|info| !has_leader(&info))
        })
        .await;

    // Neither judges by such a description.
    for (args, code) in [(&["audit"][..], 1), (&["prune", "--older-than", "1ms", "--json"], 0)] {
        let (ended, said) = run(&stack, &ackline(&stack, args).env("NATS_URL", &url)).await;
        assert!(ended == code && said.contains("has no leader"), "{args:?}: {ended} {said}");
    }
    let row = &partitions(&db).await[0];
    assert_eq!((row.applied_seq, &row.stopped_reason), (1, &None));
}
