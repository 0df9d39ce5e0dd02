//! The reply subject of a publish is the publisher's to choose, and the server publishes the PubAck
//! there with all permissions. By the configuration that is shipped it does no harm there.

use std::path::Path;

use async_nats::jetstream::stream::{Config, State};
use async_nats::{Client, ConnectOptions, jetstream};
use e2e::port::Port;
use e2e::process::{Process, Program};
use e2e::tools;
use futures::StreamExt;
use rstest::rstest;

use crate::expect::SOON;

const STREAM: &str = "CALLBACKS-1-00";
const SUBJECT: &str = "callbacks.1.00";

/// A server with the shipped configuration, but for its addresses, in a folder with its secrets.
fn start(dir: &Path, port: &Port, strict: &str) -> Process {
    let nats = tools::workspace().join("deploy/nats");
    let shipped = std::fs::read_to_string(nats.join("nats.conf")).unwrap();
    assert!(shipped.contains("strict: true"), "{shipped}");
    let config = shipped
        .replace("strict: true", strict)
        .replace("0.0.0.0:4222", &port.address().to_string())
        .replace("http: 127.0.0.1:8222", "")
        .replace("/run/secrets/", &format!("{}/", dir.display()));
    std::fs::write(dir.join("nats.conf"), config).unwrap();
    std::fs::copy(nats.join("users.conf"), dir.join("users.conf")).unwrap();
    let program = Program::new("nats-server", tools::nats_server().unwrap(), dir)
        .args([Path::new("--config"), &dir.join("nats.conf")])
        .env("NATS_NAME", "nats-1")
        .env("NATS_STORE", dir.join("store").display().to_string());
    program.start().unwrap()
}

/// The same, on a port of its own and with new secrets.
fn shipped(dir: &Path, strict: &str) -> (Process, Port) {
    let secrets = std::process::Command::new(tools::workspace().join("deploy/secrets.sh"))
        .arg(dir)
        .output()
        .unwrap();
    assert!(secrets.status.success(), "{secrets:?}");
    let port = Port::lease().unwrap();
    (start(dir, &port, strict), port)
}

async fn connect(dir: &Path, port: &Port, role: &str) -> Client {
    let file = |name: String| dir.join(name);
    let options = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(file("ca.crt".to_owned()))
        .add_client_certificate(file(format!("{role}.crt")), file(format!("{role}.key")))
        .custom_inbox_prefix(format!("_INBOX_{}", role.to_uppercase()))
        .retry_on_initial_connect();
    let client = options.connect(format!("tls://{}", port.address())).await.unwrap();
    let connecting = async {
        while client.flush().await.is_err()
            || client.connection_state() != async_nats::connection::State::Connected
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, connecting).await.expect("the server takes clients");
    client
}

#[rstest]
#[case::as_shipped("strict: true", 5)]
// What the setting is for.
#[case::without_the_setting("strict: false", 0)]
#[tokio::test]
async fn no_reply_subject_removes_what_was_accepted(#[case] strict: &str, #[case] left: u64) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (server, port) = shipped(dir, strict);
    let operator = jetstream::new(connect(dir, &port, "operator").await);
    let config =
        Config { name: STREAM.into(), subjects: vec![SUBJECT.into()], ..Config::default() };
    operator.create_stream(config).await.unwrap();

    let ingress = connect(dir, &port, "ingress").await;
    let accepted = jetstream::new(ingress.clone());
    accepted.publish(SUBJECT, "accepted".into()).await.unwrap().await.unwrap();
    let state = async || -> State {
        let stream = operator.get_stream(STREAM).await.unwrap();
        stream.cached_info().state.clone()
    };
    // The PubAck that comes there is {"stream":…,"seq":…}: read as a request, "up to that sequence".
    let requests = ["DELETE", "UPDATE", "MSG.DELETE", "PURGE"];
    for request in requests {
        let reply = format!("$JS.API.STREAM.{request}.{STREAM}");
        ingress.publish_with_reply(SUBJECT, reply, "hostile".into()).await.unwrap();
    }
    ingress.flush().await.unwrap();
    let purge = format!("$JS.API.STREAM.PURGE.{STREAM}");
    let log = server.log();
    let read = async {
        while !log.text().contains(&purge) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // Without the setting it takes effect after that line.
        while left == 0 && state().await.first_sequence == 1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("{}", log.tail(20)));
    let state = state().await;
    if left == 0 {
        assert!(state.first_sequence > 1, "{state:?}");
    } else {
        assert_eq!((state.first_sequence, state.messages), (1, left), "{state:?}");
    }
}

/// Ticks are what keeps a job's silence meaningful: nobody but ingress may send them.
#[tokio::test]
async fn workers_hear_ticks_and_cannot_send_them() {
    let dir = tempfile::tempdir().unwrap();
    let (server, port) = shipped(dir.path(), "strict: true");
    let worker = connect(dir.path(), &port, "worker").await;
    let mut heard = worker.subscribe("ticks.1.00").await.unwrap();
    worker.flush().await.unwrap();
    worker.publish("ticks.1.00", "forged".into()).await.unwrap();
    worker.flush().await.unwrap();
    let ingress = connect(dir.path(), &port, "ingress").await;
    ingress.publish("ticks.1.00", "tick".into()).await.unwrap();
    let tick = tokio::time::timeout(SOON, heard.next()).await.unwrap().unwrap();
    assert_eq!(tick.payload, "tick", "{}", server.log().tail(20));
}
