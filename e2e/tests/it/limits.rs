//! Nobody without a secret keeps others out, and memory stays bounded, whatever clients do.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::load::Load;
use e2e::process::Program;
use e2e::stack::{Db, Stack, address, listening};
use e2e::usage::memory_kib;
use futures::StreamExt;
use futures::future::join_all;
use shared::partition::Layout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::expect::*;
use crate::raw::{Raw, head};

/// Longer than any test.
const NEVER: &str = "1h";

#[tokio::test]
async fn slow_bodies_give_way_to_callbacks() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let env = [("MAX_IN_FLIGHT", "4"), ("BODY_TIMEOUT", NEVER)];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::open(ingress.addr).await;
        raw.say(head(100) + "\r\nhalf").await;
        slow.push(raw);
    }
    let in_flight = async || series(ingress.ops, "ackline_ingress_in_flight", &[]).await;
    stack.wait_until("they hold their places", SOON, async || in_flight().await == 3.0).await;
    // One place is for bodies that come with their heads.

    let load = Load { connections: 4, ..Load::new(ingress.addr, stack.secret(), 20) };
    let report = load.run().await.unwrap();
    assert_eq!(report.accepted(), 200);
    println!("{} callbacks past slow bodies, {} tries again", report.accepted(), report.retries);
    // Other slow ones take the places of those who came before.
    let labels = [("reason", "body_gave_way")];
    let gave_way = async || series(ingress.ops, "ackline_ingress_refused_total", &labels).await;
    let mut others = Vec::new();
    while gave_way().await < 3.0 {
        let mut raw = Raw::open(ingress.addr).await;
        raw.say(head(100) + "\r\nhalf").await;
        others.push(raw);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for answer in join_all(slow.into_iter().map(Raw::hear)).await {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.ends_with(r#"{"error":"Body not received in time"}"#), "{answer}");
    }
    assert_all_applied(&stack, &report).await;
}

#[tokio::test]
async fn idle_connections_give_way_to_callbacks() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let patient = ["SILENCE_TIMEOUT", "HEADER_TIMEOUT", "IDLE_TIMEOUT"].map(|name| (name, NEVER));
    let env = [&patient[..], &[("MAX_CONNECTIONS", "6")]].concat();
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let answered = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice();
    let mut idle = Vec::new();
    // More than there are places: those of the first are taken by the later ones.
    for said in [&b""[..], b"POST /api", answered].repeat(4) {
        let mut raw = Raw::open(ingress.addr).await;
        raw.say(said).await;
        idle.push(raw);
    }
    let load = Load { connections: 3, ..Load::new(ingress.addr, stack.secret(), 20) };
    let report = load.run().await.unwrap();
    assert_eq!(report.accepted(), 200);
    let labels = [("listener", "callbacks"), ("limit", "place")];
    let ended = series(ingress.ops, "ackline_connections_ended_total", &labels).await;
    assert!(ended > 0.0, "12 idle ones and 3 had 6 places");
    drop(idle);
    let labels = [("listener", "callbacks")];
    let open = async || series(ingress.ops, "ackline_connections", &labels).await;
    stack.wait_until("no connection is left", SOON, async || open().await == 0.0).await;
    assert_all_applied(&stack, &report).await;
}

/// Who comes again and again without a secret, never slow enough to lose a place.
fn pester(to: SocketAddr, clients: usize, slow_bodies: bool) -> JoinSet<()> {
    let client = move |_| async move {
        loop {
            let Ok(mut stream) = TcpStream::connect(to).await else { continue };
            let mut answer = [0; 4096];
            loop {
                let request = if slow_bodies { head(4) + "\r\n" } else { head(4) + "\r\nlate" };
                let said = stream.write_all(request.as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                if slow_bodies {
                    let _ = stream.write_all(b"late").await;
                }
                if said.is_err() || !matches!(stream.read(&mut answer).await, Ok(1..)) {
                    break;
                }
            }
        }
    };
    (0..clients).map(client).collect()
}

#[tokio::test]
async fn who_comes_again_and_again_leaves_turns_to_others() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    for (limit, slow_bodies) in [("MAX_CONNECTIONS", false), ("MAX_IN_FLIGHT", true)] {
        let ingress = stack.start_ingress_with(&[(limit, "8")], &[]).await.unwrap();
        let _pestering = pester(ingress.addr, 24, slow_bodies);
        let labels = [("reason", "signature_missing")];
        let refused = async || series(ingress.ops, "ackline_ingress_refused_total", &labels).await;
        stack.wait_until("they have their turns", SOON, async || refused().await > 16.0).await;
        let load = Load::new(ingress.addr, stack.secret(), 5);
        let prefix = limit.to_lowercase().replace('_', "-");
        let load = Load { connections: 2, reconnect: true, max_tries: 20, prefix, ..load };
        let report = load.run().await.unwrap();
        println!("{limit}: {} accepted, {} tries again", report.accepted(), report.retries);
        assert_eq!(report.accepted(), 50, "{:?}", report.jobs);
    }
}

#[tokio::test]
async fn without_descriptors_fewer_connections_are_allowed() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let program = Program::new("ingress-with-few", "/bin/bash", stack.dir())
        .args(["-c", r#"ulimit -n 200 && exec "$0""#])
        .args([e2e::tools::binary("ackline-ingress").unwrap()])
        .env("NATS_URL", stack.nats.url())
        .env("CALLBACK_SECRET", stack.secret())
        .env("INGRESS_LISTEN", "127.0.0.1:0")
        .env("OPS_LISTEN", "127.0.0.1:0");
    let process = stack.spawn(&program).unwrap();
    let address = address(&listening(&process).await.unwrap(), "addr").unwrap();
    let mut idle = Vec::new();
    for _ in 0..150 {
        let mut raw = Raw::open(address).await;
        raw.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        idle.push(raw);
    }
    let report = Load { connections: 2, ..Load::new(address, stack.secret(), 5) }.run().await;
    assert_eq!(report.unwrap().accepted(), 50);
    let said = "no more than 72 connections are allowed instead of --max-connections 4096";
    assert!(process.log().text().contains(said), "{}", process.log().text());
}

#[tokio::test]
async fn what_was_verified_gives_way_to_nobody() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let env = [("MAX_IN_FLIGHT", "1"), ("PUBLISH_DEADLINE", "60s")];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let body = status("a", "queued");
    let signature = stack.sign(body.as_bytes());
    let request = format!("{}X-Signature: {signature}\r\n\r\n{body}", head(body.len()));
    stack.nats.pause();
    let mut first = Raw::open(ingress.addr).await;
    first.say(&request).await;
    let in_flight = async || series(ingress.ops, "ackline_ingress_in_flight", &[]).await;
    stack.wait_until("it is in flight", SOON, async || in_flight().await == 1.0).await;
    // Again and again, for longer than the grace that a slow body has.
    let until = tokio::time::Instant::now() + Duration::from_millis(1500);
    while tokio::time::Instant::now() < until {
        let mut next = Raw::open(ingress.addr).await;
        next.say(request.replace("Host: a", "Connection: close")).await;
        let answer = next.hear().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(r#"{"error":"Too many requests in flight"}"#), "{answer}");
    }
    stack.nats.resume();
    let mut answer = [0; 12];
    first.0.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// The broker denies ingress one of its subjects, so that nothing answers there.
#[tokio::test]
async fn a_stream_that_takes_nothing_is_refused_alone() {
    let deny = r#"
        authorization {
            users: [{ user: curbed, password: curbed, permissions: { publish: { deny: ["callbacks.1.00"] } } }]
        }
        no_auth_user: curbed
    "#;
    let builder = Stack::builder().partitions(4).nats_config(deny);
    let stack =
        builder.env("MAX_IN_FLIGHT", "16").env("PUBLISH_DEADLINE", "60s").start().await.unwrap();
    let id_in = |partition| id_in(Layout::new(1, 4).partition(partition).unwrap(), "job");
    let mut ticks = stack.nats.client().await.unwrap().subscribe("ticks.1.*").await.unwrap();
    let stuck = status(&id_in(0), "queued");
    let waiting: Vec<_> = (0..8).map(|_| post_later(&stack, stuck.clone())).collect();
    stack
        .wait_until("eight callbacks wait", SOON, async || {
            series(stack.ingress.ops, "ackline_ingress_in_flight", &[]).await == 8.0
        })
        .await;
    let answer = stack.post(stuck).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    for partition in 1..4 {
        accept(&stack, status(&id_in(partition), "queued")).await;
    }
    // The owner of its partition must not take its jobs for silent.
    let mut ticked = Vec::new();
    let last = async {
        while let Some(tick) = ticks.next().await {
            ticked.push(tick.subject.to_string());
            if ticked.ends_with(
                &["1", "2", "3", "1", "2", "3"].map(|number| format!("ticks.1.0{number}")),
            ) {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, last).await.expect("the others are ticked");
    waiting.into_iter().for_each(|sending| sending.abort());
}

#[tokio::test]
async fn memory_is_bounded_with_every_limit_reached_at_once() {
    const CONNECTIONS: usize = 400;
    const IN_FLIGHT: usize = 200;
    const BODY: usize = 64 * 1024;
    const HEAD: usize = 16 * 1024;
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let patient = ["SILENCE_TIMEOUT", "HEADER_TIMEOUT", "BODY_TIMEOUT", "IDLE_TIMEOUT"];
    let patient = patient.map(|name| (name, NEVER));
    let (connections, in_flight) = (CONNECTIONS.to_string(), IN_FLIGHT.to_string());
    let counts = [("MAX_CONNECTIONS", connections.as_str()), ("MAX_IN_FLIGHT", &in_flight)];
    let env = [&patient[..], &counts].concat();
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let resident = || memory_kib(ingress.process.pid(), "VmRSS").unwrap();
    let before = resident();

    let almost_a_body = head(BODY) + "\r\n" + &"x".repeat(BODY - 1);
    let almost_a_head = head(BODY) + "X-Padding: " + &"x".repeat(HEAD - 200);
    let mut held = Vec::new();
    let mut most = before;
    // Three times as many as there are places for.
    for round in 0..3 {
        for said in [&almost_a_body, &almost_a_head] {
            for mut raw in join_all((0..IN_FLIGHT).map(|_| Raw::open(ingress.addr))).await {
                // Who is refused or disconnected meanwhile sends into the void.
                let _ = raw.0.write_all(said.as_bytes()).await;
                held.push(raw);
            }
            most = most.max(resident());
        }
        let report = Load {
            prefix: format!("round-{round}"),
            connections: 8,
            ..Load::new(ingress.addr, stack.secret(), 20)
        };
        assert_eq!(report.run().await.unwrap().accepted(), 200);
        most = most.max(resident());
    }
    // A buffer may have grown to twice what is in it, and be copied once.
    let bound = (CONNECTIONS * 2 * HEAD + IN_FLIGHT * 4 * BODY) as u64 / 1024;
    println!("{before} KiB before, {most} KiB at most; the limits allow {bound} KiB more");
    assert!(most < before + bound, "{before} KiB before, {most} KiB at most, {bound} KiB allowed");
    drop(held);
    let idle = async || series(ingress.ops, "ackline_ingress_in_flight", &[]).await == 0.0;
    stack.wait_until("nothing is in flight", SOON, idle).await;
}
