//! Everything is scaled and restarted, one container at a time, while callbacks go through the load
//! balancer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::check;
use e2e::compose::Deployment;
use e2e::load::{Load, Report, Running};
use e2e::stack::{CALLBACK_PATH, sign};
use sea_orm::DatabaseConnection;
use serde_json::json;
use shared::stream::DEFAULT_PARTITIONS;
use tokio::task::JoinHandle;

use super::backup;
use crate::expect::*;

/// What senders may be told, or see, on the way: `curl --retry` tries again after each of these.
const HIDDEN: [&str; 6] = ["408", "429", "500", "502", "503", "504"];

/// Returns what senders know to be accepted.
pub(super) async fn under_load(
    deployment: &Deployment,
    db: &DatabaseConnection,
    nodes: usize,
) -> Report {
    let running = load(deployment).start();
    let stop = Arc::new(AtomicBool::new(false));
    let curls = [0, 1].map(|number| curl(deployment, number, Arc::clone(&stop)));
    let on = async || goes_on(deployment, &running).await;
    on().await;
    backup::is_made(deployment).await;
    // What is connected stays so; what starts from now on shows and sees the new ones.
    deployment.run("deploy/secrets.sh --renew").await.unwrap();

    let scale = "docker compose up --detach --no-deps --no-recreate --scale";
    for service in ["worker", "ingress"] {
        deployment.run(&format!("{scale} {service}=4 {service}")).await.unwrap();
        deployment.healthy(service, 4).await;
    }
    all_take_their_share(deployment, db).await;
    for service in ["worker", "ingress"] {
        for (container, _) in deployment.containers(service).await.unwrap().iter().take(2) {
            let replace = format!(
                "docker stop {container} && docker logs {container} >>removed.log 2>&1 \
                 && docker rm {container}"
            );
            deployment.run(&replace).await.unwrap();
            on().await;
        }
        deployment.healthy(service, 2).await;
    }
    println!("while programs were replaced, senders saw {:?}", running.setbacks());

    for node in 1..=nodes {
        let before = certificate_ends(deployment, node).await;
        deployment.run(&format!("docker compose stop nats-{node}")).await.unwrap();
        if nodes > 1 {
            on().await;
        }
        deployment.run(&format!("docker compose start nats-{node}")).await.unwrap();
        deployment.healthy(&format!("nats-{node}"), 1).await;
        assert_ne!(certificate_ends(deployment, node).await, before, "nats-{node} is renewed");
        is_whole(deployment, nodes).await;
        on().await;
    }
    deployment.run("docker compose stop postgres").await.unwrap();
    on().await;
    deployment.run("docker compose start postgres").await.unwrap();
    deployment.healthy("postgres", 1).await;
    on().await;
    let loads = "docker compose logs load-balancer | grep --count 'Loading success'";
    let before = deployment.run(loads).await.unwrap();
    deployment.run("docker compose kill --signal USR2 load-balancer").await.unwrap();
    let reloaded = async || deployment.run(loads).await.unwrap() != before;
    deployment.wait_until("the load balancer is reloaded", reloaded).await;
    on().await;

    stop.store(true, Ordering::Relaxed);
    for curl in curls {
        println!("{} callbacks by curl --retry, each of them accepted", curl.await.unwrap());
    }
    running.stop();
    let setbacks = running.setbacks();
    println!("while everything was restarted, they saw {setbacks:?}");
    let shown: Vec<_> = setbacks.keys().filter(|kind| !HIDDEN.contains(&kind.as_str())).collect();
    assert!(shown.is_empty(), "senders saw {setbacks:?}");
    running.finish().await.unwrap()
}

/// Senders without an end, each callback over a connection of its own, as curl has it.
fn load(deployment: &Deployment) -> Load {
    let secret = deployment.callback_secret().unwrap();
    let mut load = Load::new(deployment.published(8080), &secret, usize::MAX / 4);
    load.connections = 8;
    load.max_tries = 10_000;
    load.rest = Duration::from_millis(20);
    load.sign_anew = false;
    load.reconnect = true;
    load
}

async fn goes_on(deployment: &Deployment, running: &Running) {
    let target = running.accepted() + 50;
    deployment.wait_until("the load goes on", async || running.accepted() >= target).await;
}

/// A real curl after another, each of which must succeed with nothing but `--retry`.
fn curl(deployment: &Deployment, number: usize, stop: Arc<AtomicBool>) -> JoinHandle<usize> {
    let url = format!("http://{}{CALLBACK_PATH}", deployment.published(8080));
    let secret = deployment.callback_secret().unwrap();
    tokio::spawn(async move {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            sent += 1;
            let (job_id, event_id) = (format!("curl-{number}"), format!("curl-{number}-{sent}"));
            let body = json!({
                "job_id": job_id, "type": "heartbeat", "event_id": event_id,
                "sent_at": now().timestamp(),
            });
            let body = body.to_string();
            let output = tokio::process::Command::new("curl")
                .args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"])
                .args(["--max-time", "60", "--retry", "10"])
                .args(["--header", &format!("X-Signature: {}", sign(&secret, body.as_bytes()))])
                .args(["--data-binary", &body, &url])
                .kill_on_drop(true)
                .output()
                .await
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}", output.status);
            assert_eq!(output.stdout, br#"{"received":true}"#);
        }
        sent
    })
}

async fn all_take_their_share(deployment: &Deployment, db: &DatabaseConnection) {
    let ingresses = deployment.containers("ingress").await.unwrap();
    let all_accept = async || {
        for (_, address) in &ingresses {
            let ops = (*address, 9080).into();
            if series(ops, "ackline_ingress_accepted_total", &[]).await < 20.0 {
                return false;
            }
        }
        ingresses.len() == 4
    };
    deployment.wait_until("each ingress takes callbacks", all_accept).await;
    let share = async || {
        let mut owned = HashMap::<String, usize>::new();
        for row in partitions(db).await {
            *owned.entry(row.owner.unwrap_or_default()).or_default() += 1;
        }
        owned.len() == usize::from(DEFAULT_PARTITIONS) && owned.values().all(|count| *count == 1)
    };
    deployment.wait_until("no worker owns more than one partition", share).await;
}

/// When the certificate ends that a server shows to clients.
async fn certificate_ends(deployment: &Deployment, node: usize) -> String {
    let ask = format!(
        "docker compose exec -T nats-{node} wget -qO- http://127.0.0.1:8222/varz \
         | grep -o '\"tls_cert_not_after\": *\"[^\"]*'"
    );
    deployment.run(&ask).await.unwrap()
}

async fn is_whole(deployment: &Deployment, nodes: usize) {
    let whole = async || {
        let Ok(client) = deployment.operator().await else { return false };
        check::is_whole(client, nodes).await.is_ok_and(|is_whole| is_whole)
    };
    deployment.wait_until("every copy of every stream is up to date", whole).await;
}
