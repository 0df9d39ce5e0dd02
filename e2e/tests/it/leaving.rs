//! How ingress is left behind a load balancer.

use std::time::Duration;

use e2e::http::{self, Client};
use e2e::load::Load;
use e2e::stack::{CALLBACK_PATH, Db, Ingress, Stack};
use hyper::Method;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::expect::*;
use crate::raw::{Raw, head};

#[tokio::test]
async fn readiness_ends_first_and_connections_are_told_to_close() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let mut ingress = stack.start_ingress_with(&[("DRAIN_DELAY", "2s")], &[]).await.unwrap();
    let body = status("a", "queued");
    let signature = stack.sign(body.as_bytes());
    let headers = [("x-signature", signature.as_str())];
    let mut kept = Client::new(ingress.addr);
    let before = kept.send(Method::POST, CALLBACK_PATH, &headers, body.clone().into()).await;
    assert_eq!(before.unwrap().header("connection"), "");

    ingress.process.ask_to_end();
    stack.wait_until("/readyz turns 503", SOON, async || !is_ready(ingress.ops).await).await;
    let reason = http::get(ingress.ops, "/readyz").await.unwrap().text();
    assert_eq!(reason, "ACK-424: shutting down\n");
    // Nobody has noticed yet.
    for client in [&mut kept, &mut Client::new(ingress.addr)] {
        let answer = client.send(Method::POST, CALLBACK_PATH, &headers, body.clone().into()).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    }
    assert!(ingress.process.wait(SOON).await.unwrap().success());
    assert!(TcpStream::connect(ingress.addr).await.is_err());
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(events(&db).await.len(), 3);
}

/// What has arrived, and was not yet looked at when the end was asked for.
#[tokio::test]
async fn who_has_connected_by_the_end_is_answered() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let mut ingress = stack.start_ingress_with(&[], &[]).await.unwrap();
    let body = status("a", "queued");
    let signature = stack.sign(body.as_bytes());
    let request = head(body.len()) + &format!("X-Signature: {signature}\r\n\r\n{body}");
    let early = Raw::open(ingress.addr).await;
    let mut kept = Raw::open(ingress.addr).await;
    kept.say(&request).await;
    assert!(kept.hear_head().await.starts_with("HTTP/1.1 200 "));
    kept.0.read_exact(&mut [0; 17]).await.unwrap();

    ingress.process.stop();
    let mut senders = vec![early, kept];
    for _ in 0..3 {
        senders.push(Raw::open(ingress.addr).await);
    }
    for sender in &mut senders {
        sender.say(&request).await;
    }
    ingress.process.ask_to_end();
    ingress.process.cont();
    for sender in senders {
        let answer = sender.hear().await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    assert!(ingress.process.wait(SOON).await.unwrap().success());
}

/// Does what a load balancer does: sends to whoever is ready, and asks again and again.
#[tokio::test]
async fn a_rolling_restart_loses_no_request() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let start = async || stack.start_ingress_with(&[("DRAIN_DELAY", "1s")], &[]).await.unwrap();
    let mut serving = vec![start().await, start().await];
    let addresses = |serving: &[Ingress]| serving.iter().map(|one| one.addr).collect::<Vec<_>>();
    let load = Load::new(serving[0].addr, stack.secret(), 1_000_000).also(serving[1].addr);
    let running = Load { connections: 8, rotate: true, ..load }.start();
    for _ in 0..2 {
        serving.push(start().await);
        running.retarget(addresses(&serving));
        let before = running.accepted();
        stack.wait_until("the load goes on", SOON, async || running.accepted() > before + 50).await;
        let mut leaving = serving.remove(0);
        leaving.process.ask_to_end();
        stack.wait_until("/readyz turns 503", SOON, async || !is_ready(leaving.ops).await).await;
        running.retarget(addresses(&serving));
        let ended = leaving.process.wait(Duration::from_secs(30)).await.unwrap();
        assert!(ended.success());
    }
    running.stop();
    let report = running.finish().await.unwrap();
    println!("{} callbacks over 2 restarts, {} tries again", report.accepted(), report.retries);
    assert_eq!(report.retries, 0, "every request was answered 200");
    assert_all_applied(&stack, &report).await;
}
