//! What each role may not do on the broker and in the database, and that it can do its work; who can reach
//! whom at all.

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use e2e::compose::Deployment;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::json;
use shared::stream::DEFAULT_PARTITIONS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worker::entity::job::{Failure, Status};
use worker::rules::event::{Position, lost_body};

use super::{accept, applied, reaches};
use crate::expect::{SOON, job, status};

/// Requests to JetStream that no role needs.
const NOBODY: [&str; 7] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.MSG.DELETE.CALLBACKS-1-00",
    "$JS.API.STREAM.RESTORE.CALLBACKS-1-00",
    "$JS.API.STREAM.SNAPSHOT.CALLBACKS-1-00",
    "$JS.API.STREAM.LEADER.STEPDOWN.CALLBACKS-1-00",
    "$JS.API.META.LEADER.STEPDOWN",
    "$SYS.REQ.SERVER.PING",
];
const CHANGE_STREAMS: [&str; 4] = [
    "$JS.API.STREAM.CREATE.CALLBACKS-1-99",
    "$JS.API.STREAM.UPDATE.CALLBACKS-1-00",
    "$JS.API.STREAM.DELETE.CALLBACKS-1-00",
    "closed.1.00",
];
const READ_AND_PURGE: [&str; 6] = [
    "$JS.API.STREAM.MSG.GET.CALLBACKS-1-00",
    "$JS.API.STREAM.PURGE.CALLBACKS-1-00",
    "$JS.API.CONSUMER.CREATE.CALLBACKS-1-00.x",
    "$JS.API.CONSUMER.DELETE.CALLBACKS-1-00.x",
    "$JS.API.CONSUMER.MSG.NEXT.CALLBACKS-1-00.x",
    "$JS.ACK.CALLBACKS-1-00.x.1.1.1.1.1",
];
/// What would show callbacks, or the answers that others get.
const LISTEN: [&str; 6] = [">", "callbacks.>", "internal.>", "orders.>", "$JS.API.>", "_INBOX.>"];
const ROLES: [(&str, &str); 3] =
    [("ingress", "_INBOX_INGRESS"), ("worker", "_INBOX_WORKER"), ("operator", "_INBOX_OPERATOR")];

pub(super) async fn each_role_can_do_its_work(deployment: &Deployment, db: &DatabaseConnection) {
    for state in [Status::Queued, Status::Provisioning, Status::Running] {
        accept(deployment, status("works", &format!("{state:?}").to_lowercase())).await;
        reaches(deployment, db, "works", state).await;
    }
    // What the worker says itself takes effect, too.
    let silent = json!({ "job_id": "silent", "status": "provisioning", "heartbeat_timeout_s": 2 });
    accept(deployment, silent.to_string()).await;
    reaches(deployment, db, "silent", Status::Failed).await;
    assert_eq!(job(db, "silent").await.unwrap().failure, Some(Failure::Presumed));
    // And what people tell it.
    let list = deployment.run("docker compose exec -T worker ackline partitions list --json").await;
    let list: serde_json::Value = serde_json::from_str(&list.unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), usize::from(DEFAULT_PARTITIONS));
    deployment.run("docker compose run --rm --no-deps migrate").await.unwrap();
    let r#move = "docker compose run --rm --no-deps migrate \
                  move --stream-max-bytes 33554432 --delete-old --yes";
    deployment.run(r#move).await.unwrap();
    deployment.run("docker compose run --rm --no-deps migrate").await.unwrap();
    // An ingress that has had nothing to do finds out with its next callback.
    let is_accepted = async || {
        deployment.post(status("moved", "running")).await.is_ok_and(|answer| answer.status == 200)
    };
    deployment.wait_until("callbacks are accepted again", is_accepted).await;
    reaches(deployment, db, "moved", Status::Running).await;
}

pub(super) async fn no_role_may_do_what_is_not_its_own(
    deployment: &Deployment,
    db: &DatabaseConnection,
) {
    let ends = applied(deployment, db).await;
    for (role, inbox) in ROLES {
        let mut subjects = NOBODY.to_vec();
        match role {
            "ingress" => subjects.extend(CHANGE_STREAMS.iter().chain(&READ_AND_PURGE)),
            "worker" => subjects.extend(CHANGE_STREAMS),
            _ => subjects.extend(READ_AND_PURGE),
        }
        subjects.extend(["callbacks.1.00"].iter().filter(|_| role != "ingress"));
        subjects.extend(["internal.1.00", "orders.1.00"].iter().filter(|_| role != "worker"));
        let (events, mut said) = unbounded_channel();
        let tells = deployment.client(role, inbox).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _ = events.send(error.to_string());
            }
            std::future::ready(())
        });
        let client = tells.connect(deployment.nats_url()).await.unwrap();
        let lost = lost_body("works", Position { seq: 1, idx: 0 });
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
    assert_eq!(applied(deployment, db).await, ends, "nothing was stored");
}

/// Workers have connected by the role that can't change the schema, and both roles by their
/// passwords.
pub(super) async fn no_role_but_the_owner_can_change_the_schema(deployment: &Deployment) {
    let roles = [
        ("ackline_worker", "postgres-worker-password"),
        ("ackline_reader", "postgres-reader-password"),
    ];
    for (role, secret) in roles {
        let db = deployment.db_as(role, secret).await.unwrap();
        let read = db.execute_unprepared("SELECT FROM jobs").await.unwrap();
        assert!(read.rows_affected() > 0, "{role}");
        let refused = db.execute_unprepared("CREATE TABLE more (id int)").await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{role}: {refused}");
    }
    let connected = "docker compose exec -T postgres psql --username=ackline --tuples-only \
                     --no-align ackline --command \"SELECT DISTINCT usename FROM pg_stat_activity \
                     WHERE application_name LIKE 'ackline%'\"";
    assert_eq!(deployment.run(connected).await.unwrap(), "ackline_worker\n");
}

/// A service does not even find those with whom it shares no network.
pub(super) async fn nobody_finds_whom_it_need_not_reach(deployment: &Deployment) {
    for (service, found, hidden) in [
        ("load-balancer", ["ingress", "worker"], ["nats-1", "postgres"]),
        ("nats-1", ["ingress", "worker"], ["load-balancer", "postgres"]),
    ] {
        let look = async |name: &str| {
            let look = format!("docker compose exec -T {service} nslookup {name}");
            deployment.run(&look).await.is_ok()
        };
        for name in found {
            assert!(look(name).await, "{service} does not find {name}");
        }
        for name in hidden {
            assert!(!look(name).await, "{service} finds {name}");
        }
    }
}

async fn is_told(said: &mut UnboundedReceiver<String>, what: &str, subject: &str) {
    let refused = tokio::time::timeout(SOON, said.recv()).await;
    let refused = refused.unwrap_or_else(|_| panic!("{what} {subject} is not refused")).unwrap();
    let is_it = refused.contains("Permissions Violation")
        && refused.contains(what)
        && refused.contains(&format!("\"{subject}\""));
    assert!(is_it, "{what} {subject}: {refused}");
}

pub(super) async fn who_shows_no_certificate_of_a_role_is_refused(deployment: &Deployment) {
    let issue = "cd deploy/secrets && echo extendedKeyUsage=clientAuth >extensions \
         && openssl req -newkey rsa:2048 -nodes -keyout stranger.key -subj /CN=stranger -out request \
         && openssl x509 -req -in request -CA ca.crt -CAkey ca.key -set_serial 1 -days 2 \
            -extfile extensions -out stranger.crt";
    deployment.run(issue).await.unwrap();
    let authority = deployment.file("deploy/secrets/ca.crt");
    let nobody = ConnectOptions::new().require_tls(true).add_root_certificates(authority);
    // None; that of the cluster, which another authority has signed; that of the servers, which is
    // not for clients; one of our authority for a name that is no user's.
    for (who, options, why) in [
        ("nobody", nobody, "received fatal alert"),
        ("a node", deployment.client("cluster", "_INBOX"), "received fatal alert"),
        ("a server", deployment.client("nats", "_INBOX"), "received fatal alert"),
        ("a stranger", deployment.client("stranger", "_INBOX"), "authorization violation"),
    ] {
        let connected = tokio::time::timeout(SOON, options.connect(deployment.nats_url())).await;
        let error = connected.unwrap().err().unwrap_or_else(|| panic!("{who} is let in"));
        let error = format!("{:#}", anyhow::Error::from(error)).to_lowercase();
        assert!(error.contains(why), "{who}: {error}");
    }
    // Who will not speak TLS gets no answer but the end.
    let mut plain = TcpStream::connect(deployment.published(4222)).await.unwrap();
    plain.write_all(b"CONNECT {\"tls_required\":false}\r\nPING\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(SOON, plain.read_to_end(&mut said)).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("INFO ") && !said.contains("PONG"), "{said}");
}

/// The servers talk to each other only where both show a certificate of the cluster.
pub(super) async fn a_client_can_not_pose_as_a_node(deployment: &Deployment) {
    let (_, address) = deployment.containers("nats-1").await.unwrap().remove(0);
    let greeted = async |role: &str| {
        let connect = format!(
            "cd deploy/secrets && timeout 5 openssl s_client -quiet -connect {address}:6222 \
             -CAfile cluster-ca.crt -cert {role}.crt -key {role}.key 2>&1 || true"
        );
        deployment.run(&connect).await.unwrap()
    };
    let (node, client) = (greeted("cluster").await, greeted("worker").await);
    assert!(node.contains("INFO {"), "{node}");
    assert!(client.contains("alert") && !client.contains("INFO {"), "{client}");
}

/// Whatever the programs did since the start was theirs to do. Nothing that a container has said,
/// or was given, has a secret in it.
pub(super) async fn nobody_was_refused_and_no_secret_was_shown(deployment: &Deployment) {
    let said = deployment.run("docker compose logs ingress worker migrate; cat removed.log").await;
    let said = said.unwrap();
    assert!(said.contains("the schema and the streams are ready"), "these are the logs");
    assert!(!said.contains("ermissions Violation"), "{said}");
    assert!(!said.contains("the partition is stopped"), "a partition was stopped for a while");
    let others = "docker compose logs && docker compose ps --all --quiet | xargs docker inspect";
    let shown = said + &deployment.run(others).await.unwrap();
    assert!(shown.contains("/callback-secrets"), "this looks at what they were given");
    let passwords = ["postgres-password", "postgres-worker-password", "postgres-reader-password"];
    for secret in passwords.into_iter().chain(["callback-secrets", "console-token"]) {
        let secret = deployment.secret(secret).unwrap();
        let secret = secret.trim_start_matches("default:");
        assert!(secret.len() > 20 && !shown.contains(secret));
    }
}
