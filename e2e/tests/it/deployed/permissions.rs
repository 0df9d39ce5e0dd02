//! What each role may not do on the broker, and that it can do its work.

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use e2e::deployment::Deployment;
use e2e::http;
use e2e::stack::Stack;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worker::entity::job::{Failure, Status};
use worker::rules::event::{Position, lost_body};

use crate::expect::*;

/// Requests to JetStream that no role needs.
const NOBODY: [&str; 9] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.DELETE.CALLBACKS-00",
    "$JS.API.STREAM.MSG.DELETE.CALLBACKS-00",
    "$JS.API.STREAM.RESTORE.CALLBACKS-00",
    "$JS.API.STREAM.SNAPSHOT.CALLBACKS-00",
    "$JS.API.STREAM.LEADER.STEPDOWN.CALLBACKS-00",
    "$JS.API.META.LEADER.STEPDOWN",
    "$SYS.REQ.SERVER.PING",
];
const CHANGE_STREAMS: [&str; 2] =
    ["$JS.API.STREAM.CREATE.CALLBACKS-99", "$JS.API.STREAM.UPDATE.CALLBACKS-00"];
const READ_AND_PURGE: [&str; 6] = [
    "$JS.API.STREAM.MSG.GET.CALLBACKS-00",
    "$JS.API.STREAM.PURGE.CALLBACKS-00",
    "$JS.API.CONSUMER.CREATE.CALLBACKS-00.x",
    "$JS.API.CONSUMER.DELETE.CALLBACKS-00.x",
    "$JS.API.CONSUMER.MSG.NEXT.CALLBACKS-00.x",
    "$JS.ACK.CALLBACKS-00.x.1.1.1.1.1",
];
/// What would show callbacks, or the answers that others get.
const LISTEN: [&str; 5] = [">", "callbacks.>", "internal.>", "$JS.API.>", "_INBOX.>"];
const ROLES: [(&str, &str); 3] =
    [("ingress", "_INBOX_INGRESS"), ("worker", "_INBOX_WORKER"), ("operator", "_INBOX_OPERATOR")];

/// A connection, and what the broker says of it.
async fn connect(
    stack: &Stack,
    options: ConnectOptions,
) -> (async_nats::Client, UnboundedReceiver<String>) {
    let (events, said) = unbounded_channel();
    let client = options
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _ = events.send(error.to_string());
            }
            std::future::ready(())
        })
        .connect(stack.nats.node(0).url())
        .await
        .unwrap();
    (client, said)
}

async fn is_told(said: &mut UnboundedReceiver<String>, what: &str, subject: &str) {
    let refused = tokio::time::timeout(SOON, said.recv()).await;
    let refused = refused.unwrap_or_else(|_| panic!("{what} {subject} is not refused")).unwrap();
    let is_it = refused.contains("Permissions Violation")
        && refused.contains(what)
        && refused.contains(&format!("\"{subject}\""));
    assert!(is_it, "{what} {subject}: {refused}");
}

#[tokio::test]
async fn no_role_may_do_what_is_not_its_own() {
    let mut deployment = Deployment::start().await.unwrap();
    let stack = &deployment.stack;
    accept(stack, status("a", "queued")).await;
    let db = stack.db().await.unwrap();
    wait_for_status(stack, &db, "a", Status::Queued).await;
    let ends = stream_ends(stack).await;

    for (role, inbox) in ROLES {
        let mut subjects = NOBODY.to_vec();
        match role {
            "ingress" => subjects.extend(CHANGE_STREAMS.iter().chain(&READ_AND_PURGE)),
            "worker" => subjects.extend(CHANGE_STREAMS),
            _ => subjects.extend(READ_AND_PURGE),
        }
        subjects.extend(["callbacks.00"].iter().filter(|_| role != "ingress"));
        subjects.extend(["internal.00"].iter().filter(|_| role != "worker"));
        let (client, mut said) = connect(stack, deployment.client(role, inbox).unwrap()).await;
        let lost = lost_body("a", Position { seq: 1, idx: 0 });
        for subject in &subjects {
            client.publish(*subject, Bytes::from(lost.clone())).await.unwrap();
            client.flush().await.unwrap();
            is_told(&mut said, "Publish", subject).await;
        }
        let others = ROLES.iter().filter(|(other, _)| *other != role);
        let others = others.map(|(_, inbox)| format!("{inbox}.>"));
        for subject in LISTEN.into_iter().map(str::to_owned).chain(others) {
            let _subscription = client.subscribe(subject.clone()).await.unwrap();
            client.flush().await.unwrap();
            is_told(&mut said, "Subscription", &subject).await;
        }
        println!("{role}: {} subjects are refused", subjects.len() + LISTEN.len() + 2);
    }
    assert_eq!(stream_ends(stack).await, ends, "nothing was stored");

    who_shows_no_certificate_of_a_role_is_refused(&deployment).await;
    a_client_can_not_pose_as_a_node(&mut deployment).await;
    assert_audited(&deployment.stack).await;
}

async fn who_shows_no_certificate_of_a_role_is_refused(deployment: &Deployment) {
    let url = deployment.stack.nats.node(0).url();
    let authority = deployment.secret_file("ca.crt");
    let trusting =
        || ConnectOptions::new().require_tls(true).add_root_certificates(authority.clone());
    let with = |name: &str| {
        let file = |ending| deployment.secret_file(&format!("{name}.{ending}"));
        trusting().add_client_certificate(file("crt"), file("key"))
    };
    deployment.issue("stranger").await.unwrap();
    // None; that of the cluster, which another authority has signed; that of the servers, which is
    // not for clients; one of our authority for a name that is no user's.
    for (who, options, why) in [
        ("nobody", trusting(), "received fatal alert"),
        ("a node", with("cluster"), "received fatal alert"),
        ("a server", with("nats"), "received fatal alert"),
        ("a stranger", with("stranger"), "authorization violation"),
    ] {
        let connected = tokio::time::timeout(SOON, options.connect(&url)).await;
        let error = connected.unwrap().err().unwrap_or_else(|| panic!("{who} is let in"));
        let error = format!("{:#}", anyhow::Error::from(error)).to_lowercase();
        assert!(error.contains(why), "{who}: {error}");
    }
    // Who will not speak TLS gets no answer but the end.
    let mut plain = TcpStream::connect(deployment.stack.nats.node(0).address()).await.unwrap();
    plain.write_all(b"CONNECT {\"tls_required\":false}\r\nPING\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(SOON, plain.read_to_end(&mut said)).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("INFO ") && !said.contains("PONG"), "{said}");
}

async fn a_client_can_not_pose_as_a_node(deployment: &mut Deployment) {
    let rogue = deployment.launch_node("worker").unwrap();
    let stack = &deployment.stack;
    stack
        .wait_until("the node is refused", SOON, async || {
            stack.all_logs().contains("TLS route handshake error")
        })
        .await;
    assert!(rogue.process().is_running());
    let routes = http::get(stack.nats.node(0).monitoring().unwrap(), "/routez").await.unwrap();
    assert!(!routes.text().contains("nats-4"), "{}", routes.text());
}

#[tokio::test]
async fn each_role_can_do_its_work() {
    let deployment = Deployment::start().await.unwrap();
    let stack = &deployment.stack;
    let db = stack.db().await.unwrap();
    for state in [Status::Queued, Status::Provisioning, Status::Running] {
        accept(stack, status("a", &format!("{state:?}").to_lowercase())).await;
        wait_for_status(stack, &db, "a", state).await;
    }
    // What the worker says itself takes effect, too.
    let silent = json!({ "job_id": "silent", "status": "provisioning", "heartbeat_timeout_s": 2 });
    accept(stack, silent.to_string()).await;
    let silent = wait_for_status(stack, &db, "silent", Status::Failed).await;
    assert_eq!(silent.failure, Some(Failure::Presumed));
    // And what people tell it.
    let again = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    assert_eq!(again.as_array().unwrap().len(), 16);
    deployment.migrate().await.unwrap();
    assert_audited(stack).await;
    let logs = stack.all_logs();
    assert!(!logs.contains("ermissions Violation"), "{logs}");
    assert_kept_secret(&deployment);
}

/// Nothing that any process has said, or shows to other users of the machine, has a secret in it.
fn assert_kept_secret(deployment: &Deployment) {
    let stack = &deployment.stack;
    let read = |name: &str| std::fs::read_to_string(deployment.secret_file(name)).unwrap();
    let secrets = [read("postgres-password").trim().to_owned(), stack.secret().to_owned()];
    let logs = stack.all_logs() + &deployment.load_balancer.process.log().text();
    let mut shown = Vec::new();
    for process in [&stack.ingress.process, &stack.worker.process] {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{}/{file}", process.pid())).unwrap();
            shown.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let shown = shown.concat();
    assert!(shown.contains("/callback-secrets"), "this looks at the processes: {shown}");
    for secret in &secrets {
        assert!(secret.len() > 20 && !logs.contains(secret) && !shown.contains(secret));
    }
}
