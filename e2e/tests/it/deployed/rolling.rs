//! Everything is restarted, one process at a time, and scaled, while callbacks go through the load
//! balancer.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use e2e::deployment::Deployment;
use e2e::load::{Load, Running};
use e2e::stack::{CALLBACK_PATH, sign};
use serde_json::json;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::expect::*;
use crate::faults::figures::{conclude, endless, goes_on, wait_until_whole};

/// What senders may be told, or see, on the way: `curl --retry` tries again after each of these.
const HIDDEN: [&str; 6] = ["408", "429", "500", "502", "503", "504"];

/// Many senders, each callback over a connection of its own, as curl has it.
fn load(deployment: &Deployment) -> Load {
    let mut load = endless(&deployment.stack, 8);
    load.targets = vec![deployment.load_balancer.addr];
    load.reconnect = true;
    load
}

async fn on(deployment: &Deployment, running: &Running) {
    goes_on(&deployment.stack, running, 50).await;
}

/// Nothing but what curl tries again, whoever was restarted.
fn assert_hidden(running: &Running) {
    let setbacks = running.setbacks();
    let shown: Vec<_> =
        setbacks.iter().filter(|(kind, _)| !HIDDEN.contains(&kind.as_str())).collect();
    assert!(shown.is_empty(), "senders saw {setbacks:?}");
}

/// Real ones, one after another, until they are told to stop.
struct Curls {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<String>>,
}

impl Curls {
    fn start(count: usize, addr: SocketAddr, secret: &str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let senders = (0..count)
            .map(|number| {
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                let secret = secret.to_owned();
                let job_id = format!("curl-{number}");
                tokio::spawn(async move {
                    let mut beats = 0;
                    while !stop.load(Ordering::Relaxed) {
                        beats += 1;
                        let event_id = format!("{job_id}-{beats}");
                        let body =
                            json!({ "job_id": job_id, "type": "heartbeat", "event_id": event_id });
                        send(addr, &secret, &body.to_string()).await;
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    job_id
                })
            })
            .collect();
        Self { stop, sent, senders }
    }

    /// Returns the jobs that they have sent for.
    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut jobs = Vec::new();
        for sender in self.senders {
            jobs.push(sender.await.unwrap());
        }
        println!(
            "{} callbacks by curl --retry, each of them accepted",
            self.sent.load(Ordering::Relaxed)
        );
        jobs
    }
}

/// Must succeed with nothing but `--retry`.
async fn send(addr: SocketAddr, secret: &str, body: &str) {
    let output = Command::new("curl")
        .args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"])
        .args(["--max-time", "60", "--retry", "10"])
        .args(["--header", &format!("X-Signature: {}", sign(secret, body.as_bytes()))])
        .args(["--data-binary", body, &format!("http://{addr}{CALLBACK_PATH}")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert_eq!(output.stdout, br#"{"received":true}"#);
}

#[tokio::test]
async fn a_rolling_restart_of_everything_loses_nothing() {
    let mut deployment = Deployment::start().await.unwrap();
    let running = load(&deployment).start();
    let addr = deployment.load_balancer.addr;
    let curls = Curls::start(2, addr, deployment.stack.secret());
    on(&deployment, &running).await;

    for _ in 0..=deployment.ingresses.len() {
        deployment.replace_ingress().await.unwrap();
        on(&deployment, &running).await;
    }
    for _ in 0..=deployment.workers.len() {
        deployment.replace_worker().await.unwrap();
        on(&deployment, &running).await;
    }
    println!("while programs were replaced, senders saw {:?}", running.setbacks());
    // What is connected stays so; who connects from now on shows and sees the new ones.
    deployment.renew_certificates().await.unwrap();
    for node in 0..deployment.stack.nats.size() {
        wait_until_whole(&deployment.stack).await;
        deployment.stack.nats.node_mut(node).stop_server().await.unwrap();
        on(&deployment, &running).await;
        deployment.stack.nats.node_mut(node).restart().await.unwrap();
    }
    let postgres = deployment.stack.postgres.as_mut().unwrap();
    postgres.stop_server().await.unwrap();
    on(&deployment, &running).await;
    deployment.stack.postgres.as_mut().unwrap().restart().await.unwrap();
    on(&deployment, &running).await;
    deployment.reload_load_balancer().await.unwrap();
    on(&deployment, &running).await;

    let jobs = curls.stop().await;
    assert_hidden(&running);
    println!("while everything was restarted, they saw {:?}", running.setbacks());
    let others: Vec<&str> = jobs.iter().map(String::as_str).collect();
    conclude(&deployment.stack, running, "everything was restarted, one after another", &others)
        .await;
}

#[tokio::test]
async fn ingresses_and_workers_that_are_added_take_their_share() {
    let mut deployment = Deployment::start().await.unwrap();
    let running = load(&deployment).start();
    on(&deployment, &running).await;
    for _ in 0..2 {
        deployment.add_ingress().await.unwrap();
        deployment.add_worker().await.unwrap();
    }
    let ingresses: Vec<SocketAddr> = [&deployment.stack.ingress]
        .into_iter()
        .chain(&deployment.ingresses)
        .map(|ingress| ingress.ops)
        .collect();
    assert_eq!(ingresses.len(), 4);
    deployment
        .stack
        .wait_until("each ingress takes callbacks", SOON, async || {
            for ops in &ingresses {
                if series(*ops, "ackline_ingress_accepted_total", &[]).await < 20.0 {
                    return false;
                }
            }
            true
        })
        .await;
    let db = deployment.stack.db().await.unwrap();
    deployment
        .stack
        .wait_until("each worker owns a quarter of the partitions", SOON, async || {
            let mut owned = std::collections::HashMap::<String, usize>::new();
            for row in partitions(&db).await {
                *owned.entry(row.owner.unwrap_or_default()).or_default() += 1;
            }
            owned.len() == 4 && owned.values().all(|count| *count == 4)
        })
        .await;
    assert_hidden(&running);
    conclude(&deployment.stack, running, "two ingresses and two workers more", &[]).await;
}
