//! A broker of three nodes, each stream with a copy on each, loses nodes and leaders.

use std::collections::HashMap;
use std::path::PathBuf;

use async_nats::jetstream;
use e2e::load::Running;
use e2e::stack::{Db, PARTITIONS, Stack, Worker};
use futures::TryStreamExt;
use shared::partition::{Layout, Partition};

use super::figures::{conclude, endless, goes_on, wait_until_whole};
use super::ownership::copy;
use crate::expect::*;

const NODES: usize = 3;
const STREAMS: [&str; 4] = ["CALLBACKS-1-00", "CALLBACKS-1-01", "CALLBACKS-1-02", "CALLBACKS-1-03"];

/// Ingress, and two workers on PostgreSQL.
async fn cluster(partitions: u16, publish_deadline: &str) -> (Stack, Worker) {
    let stack = Stack::builder()
        .cluster()
        .db(Db::Postgres)
        .partitions(partitions)
        // Nodes miss each other within seconds.
        .nats_config("ping_interval: \"1s\"\nping_max: 2")
        .env("LEASE", "2s")
        .env("PUBLISH_DEADLINE", publish_deadline)
        .start()
        .await
        .unwrap();
    let second = stack.start_worker_with(&[("WORKER_ID", "second")], &[]).await.unwrap();
    (stack, second)
}

/// Waits until a node that may lead does so in every stream.
async fn wait_for_leaders(stack: &Stack, may_lead: impl Fn(usize) -> bool) {
    for stream in STREAMS {
        stack
            .wait_until(&format!("{stream} has another leader"), SOON, async || {
                matches!(stack.nats.leader(stream).await, Ok(Some(node)) if may_lead(node))
            })
            .await;
    }
}

/// Kills the nodes in turn, each of which starts again when the others have taken over.
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn nodes_are_killed_one_after_another_over_and_over() {
    let kills = 12;
    let (mut stack, _second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    let mut node = stack.nats.leader(STREAMS[0]).await.unwrap().unwrap();
    for _ in 0..kills {
        wait_until_whole(&stack).await;
        goes_on(&stack, &running, 50).await;
        stack.nats.node_mut(node).process.kill9();
        wait_for_leaders(&stack, |leader| leader != node).await;
        goes_on(&stack, &running, 50).await;
        stack.nats.node_mut(node).restart().await.unwrap();
        node = (node + 1) % NODES;
    }
    goes_on(&stack, &running, 50).await;
    conclude(&stack, running, &format!("{kills} kills of one node of three"), &[]).await;
}

/// Without an election, which takes seconds.
#[tokio::test]
async fn a_follower_is_killed_and_comes_back_and_the_leader_steps_down() {
    let (mut stack, _second) = cluster(1, "12s").await;
    let running = endless(&stack, 8).start();
    wait_until_whole(&stack).await;
    let leader = stack.nats.leader(STREAMS[0]).await.unwrap().unwrap();
    let follower = (leader + 1) % NODES;
    stack.nats.node_mut(follower).process.kill9();
    goes_on(&stack, &running, 100).await;
    stack.nats.node_mut(follower).restart().await.unwrap();
    wait_until_whole(&stack).await;
    step_down(&stack, STREAMS[0]).await;
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, "a kill of a follower, and a leader stepped down", &[]).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn nodes_are_killed_before_the_last_one_has_caught_up() {
    let (mut stack, _second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    let kills = 15;
    for kill in 0..kills {
        goes_on(&stack, &running, 20).await;
        stack.nats.node_mut(kill % NODES).restart().await.unwrap();
    }
    goes_on(&stack, &running, 50).await;
    let faults = format!("{kills} kills of one node of three without waiting for its copies");
    conclude(&stack, running, &faults, &[]).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn all_nodes_are_killed_at_once_over_and_over() {
    let (mut stack, _second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    let kills = 5;
    for _ in 0..kills {
        goes_on(&stack, &running, 50).await;
        stack.nats.kill9();
        stack.nats.restart().await.unwrap();
    }
    goes_on(&stack, &running, 50).await;
    conclude(&stack, running, &format!("{kills} kills of all three nodes"), &[]).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn each_node_is_frozen_until_it_is_missed() {
    let (stack, _second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    for node in 0..NODES {
        wait_until_whole(&stack).await;
        goes_on(&stack, &running, 50).await;
        stack.nats.node(node).process.stop();
        // Whoever is connected to it must notice by himself: no connection is closed.
        goes_on(&stack, &running, 500).await;
        stack.nats.node(node).process.cont();
    }
    conclude(&stack, running, "3 freezes of one node of three", &[]).await;
}

/// The leader of a stream hands over to another node.
async fn step_down(stack: &Stack, stream: &str) {
    let before = stack.nats.leader(stream).await.unwrap();
    stack.nats.step_down(stream).await.unwrap();
    stack
        .wait_until("another node leads", SOON, async || {
            let now = stack.nats.leader(stream).await;
            now.is_ok_and(|now| now.is_some() && now != before)
        })
        .await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn leaders_step_down_over_and_over() {
    let (stack, _second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    let rounds = 10;
    for _ in 0..rounds {
        for stream in STREAMS {
            goes_on(&stack, &running, 20).await;
            step_down(&stack, stream).await;
        }
    }
    goes_on(&stack, &running, 50).await;
    let faults = format!("{} leaders stepped down", rounds * STREAMS.len());
    conclude(&stack, running, &faults, &[]).await;
}

#[tokio::test]
async fn streams_on_a_lost_node_hold_up_no_others() {
    let builder = Stack::builder().cluster().stream_replicas(1).env("PUBLISH_DEADLINE", "60s");
    let mut stack = builder.start().await.unwrap();
    let mut led = vec![Vec::new(); NODES];
    for partition in Layout::new(1, PARTITIONS).all() {
        let leader = stack.nats.leader(&partition.stream()).await.unwrap();
        led[leader.unwrap()].push(partition);
    }
    let lost_node = (0..NODES).max_by_key(|node| led[*node].len()).unwrap();
    let lost = led.remove(lost_node);
    let survivor = stack.nats.node((lost_node + 1) % NODES).url();
    stack.ingress = stack.start_ingress_with(&[("NATS_URL", &survivor)], &[]).await.unwrap();
    stack.nats.node_mut(lost_node).process.kill9();

    let job_of = |partition| id_in(partition, "job");
    let later = |partition: &Partition| post_later(&stack, status(&job_of(*partition), "queued"));
    let waiting: Vec<_> = lost.iter().map(later).collect();
    stack
        .wait_until("ingress holds them", SOON, async || {
            series(stack.ingress.ops, "ackline_ingress_in_flight", &[]).await == lost.len() as f64
        })
        .await;
    for partition in led.into_iter().flatten() {
        accept(&stack, status(&job_of(partition), "queued")).await;
    }
    assert!(waiting.iter().all(|answer| !answer.is_finished()), "they wait for their streams");
    stack.nats.node_mut(lost_node).restart().await.unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
    }
}

async fn probe(stack: &Stack) -> u16 {
    stack.post(status("probe", "queued")).await.unwrap().status
}

/// Leaves one node alone, which lacks the last messages: it was frozen while the others went on
/// without it.
async fn without_a_majority(stack: &mut Stack, running: &Running, survivor: usize) {
    wait_until_whole(stack).await;
    // Its connection stays, and does not tell that nothing can be stored.
    let url = stack.nats.node(survivor).url();
    let connected = stack.start_ingress_with(&[("NATS_URL", &url)], &[]).await.unwrap();
    let others: Vec<usize> = (0..NODES).filter(|node| *node != survivor).collect();
    stack.nats.node(survivor).process.stop();
    for node in &others {
        let log = stack.nats.node(*node).process.log();
        let missed = format!("Remote: ackline-{}", survivor + 1);
        stack
            .wait_until("the frozen node is missed", SOON, async || {
                let is_stale = |line: &str| line.contains("Stale") && line.contains(&missed);
                log.find_line(is_stale).is_some()
            })
            .await;
    }
    wait_for_leaders(stack, |leader| leader != survivor).await;
    goes_on(stack, running, 50).await;
    for node in &others {
        stack.nats.node_mut(*node).process.kill9();
    }
    stack.nats.node(survivor).process.cont();

    stack
        .wait_until("no ingress says that it is ready", SOON, async || {
            !is_ready(stack.ingress.ops).await && !is_ready(connected.ops).await
        })
        .await;
    let accepted = running.accepted();
    for _ in 0..20 {
        assert_eq!(probe(stack).await, 503);
    }
    assert_eq!(running.accepted(), accepted, "a minority confirms nothing");
    let without_leader = stack.worker.process.log();
    stack
        .wait_until("a worker asks for a leader", SOON, async || {
            without_leader.find_line(|line| line.contains("the stream has no leader")).is_some()
        })
        .await;
    // What the survivor tells of the streams ends below the checkpoints.
    let db = stack.db().await.unwrap();
    assert!(partitions(&db).await.iter().all(|row| row.stopped_reason.is_none()));

    for node in others {
        stack.nats.node_mut(node).restart().await.unwrap();
    }
    stack
        .wait_until("every ingress is ready again", SOON, async || {
            is_ready(stack.ingress.ops).await && is_ready(connected.ops).await
        })
        .await;
    goes_on(stack, running, 50).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn two_nodes_of_three_are_down() {
    let (mut stack, _second) = cluster(4, "2s").await;
    let running = endless(&stack, 8).start();
    for survivor in 0..NODES {
        without_a_majority(&mut stack, &running, survivor).await;
    }
    conclude(&stack, running, "3 times two nodes of three down", &["probe"]).await;
}

/// What the broker knows of every consumer's acks: its stream, its name, its floor.
async fn acks(stack: &Stack) -> HashMap<(String, String), u64> {
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let mut acks = HashMap::new();
    for name in STREAMS {
        let stream = jetstream.get_stream(name).await.unwrap();
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.try_next().await.unwrap() {
            let key = (name.to_owned(), consumer.name);
            acks.insert(key, consumer.ack_floor.stream_sequence);
        }
    }
    acks
}

/// Where each node keeps the state of each stream's consumers.
fn consumer_stores(stack: &Stack) -> Vec<PathBuf> {
    let nodes = (1..=NODES).map(|node| stack.dir().join(format!("nats-{node}")));
    let obs = |node: PathBuf| {
        STREAMS.map(|stream| node.join("jetstream/$G/streams").join(stream).join("obs"))
    };
    nodes.flat_map(obs).collect()
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn acks_that_the_broker_has_forgotten_change_nothing() {
    let (mut stack, second) = cluster(4, "12s").await;
    let running = endless(&stack, 8).start();
    let (mut forgotten, rounds) = (0, 3);
    for round in 0..rounds {
        goes_on(&stack, &running, 100).await;
        let backup = stack.dir().join(format!("acks-{round}"));
        for (index, store) in consumer_stores(&stack).iter().enumerate() {
            copy(store, &backup.join(index.to_string()));
        }
        goes_on(&stack, &running, 200).await;

        // The workers still count on their consumers when those have gone back.
        for worker in [&stack.worker, &second] {
            worker.process.stop();
        }
        let before = acks(&stack).await;
        stack.nats.kill9();
        for (index, store) in consumer_stores(&stack).iter().enumerate() {
            std::fs::remove_dir_all(store).unwrap();
            copy(&backup.join(index.to_string()), store);
        }
        stack.nats.restart().await.unwrap();
        wait_until_whole(&stack).await;
        let after = acks(&stack).await;
        let went_back = |(key, floor): (&_, &u64)| after.get(key).is_some_and(|now| now < floor);
        forgotten += before.iter().filter(|ack| went_back(*ack)).count();
        for worker in [&stack.worker, &second] {
            worker.process.cont();
        }
    }
    assert!(forgotten >= rounds, "the acks of {forgotten} consumers went back");
    goes_on(&stack, &running, 100).await;
    conclude(&stack, running, &format!("the acks of {forgotten} consumers forgotten"), &[]).await;
}
