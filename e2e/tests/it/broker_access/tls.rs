//! TLS.

use async_nats::ConnectOptions;
use e2e::certificates::{Authority, Issued};
use e2e::stack::Stack;

use super::{Env, Files, are_refused, end_worker, goes_through, guarded, reload, text};
use crate::expect::{SOON, is_ready};

const HOSTS: [&str; 1] = ["127.0.0.1"];

fn config(server: &Issued, more: &str) -> String {
    format!("tls {{\n  cert_file: {:?}\n  key_file: {:?}\n{more}}}", server.certificate, server.key)
}

fn believing(authority: &Authority) -> ConnectOptions {
    let options = ConnectOptions::new().require_tls(true);
    options.add_root_certificates(authority.certificate().to_owned())
}

#[tokio::test]
async fn a_server_is_believed_only_with_its_authority_its_name_and_in_its_time() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let foreign = Authority::new(&files.path("foreign")).unwrap();
    let namesake = Authority::new(&files.path("foreign/own")).unwrap();
    let server = authority.issue("server", &HOSTS).unwrap();
    let ca = text(authority.certificate());
    let env: Env = vec![("NATS_CA_FILE", ca.clone())];
    let mut stack =
        guarded(&config(&server, ""), believing(&authority), &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let unknown = "the server's certificate comes from no authority that";
    for authority in [&foreign, &namesake] {
        let theirs = text(authority.certificate());
        let why = format!("{unknown} is in {theirs}");
        are_refused(&stack, &[("NATS_CA_FILE", &theirs)], &why).await;
    }
    let tls = format!("tls://{}", stack.nats.node(0).address());
    let systems = format!("{unknown} the system believes: set NATS_CA_FILE");
    are_refused(&stack, &[("NATS_URL", &tls), ("NATS_CA_FILE", "")], &systems).await;
    // Nor is it believed where only the server wants TLS.
    are_refused(&stack, &[("NATS_CA_FILE", "")], &systems).await;
    let other_name = tls.replace("127.0.0.1", "localhost");
    are_refused(&stack, &[("NATS_URL", &other_name)], "not valid for name \"localhost\"").await;

    // The running ingress keeps its connection, and finds the new certificate at its next one.
    authority.issue_expired("server", &HOSTS).unwrap();
    reload(&stack).await;
    are_refused(&stack, &[], "certificate expired").await;
    authority.issue("server", &HOSTS).unwrap();
    stack.nats.restart().await.unwrap();
    stack.start_worker().await.unwrap();
    goes_through_again(&stack, "b").await;
    end_worker(&mut stack).await;
}

/// The same as `goes_through`, once ingress is connected again.
async fn goes_through_again(stack: &Stack, job: &str) {
    stack
        .wait_until("ingress is ready again", SOON, async || is_ready(stack.ingress.ops).await)
        .await;
    goes_through(stack, job).await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_demanded() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let client = authority.issue("client", &[]).unwrap();
    let (certificate, key) = (text(&client.certificate), text(&client.key));
    let mut stack = guarded("", ConnectOptions::new(), &Env::new()).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let why = "speak TLS on this port";
    let ca = text(authority.certificate());
    are_refused(&stack, &[("NATS_CA_FILE", &ca)], why).await;
    are_refused(&stack, &[("NATS_CERT_FILE", &certificate), ("NATS_KEY_FILE", &key)], why).await;
    // One address is enough, wherever it is in the list.
    let address = stack.nats.node(0).address();
    let mixed = format!("nats://{address},tls://{address}");
    are_refused(&stack, &[("NATS_URL", &mixed)], why).await;
}

#[tokio::test]
async fn a_server_that_begins_with_tls_is_met_with_tls() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let server = authority.issue("server", &HOSTS).unwrap();
    let env: Env =
        vec![("NATS_CA_FILE", text(authority.certificate())), ("NATS_TLS_FIRST", "true".into())];
    let first = config(&server, "  handshake_first: true\n");
    let mut stack = guarded(&first, believing(&authority).tls_first(), &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;
    let why = "without a word: it may expect TLS first (handshake_first: true): set NATS_TLS_FIRST";
    are_refused(&stack, &[("NATS_TLS_FIRST", "false")], why).await;

    let env: Env = vec![("NATS_CA_FILE", text(authority.certificate()))];
    let other = guarded(&config(&server, ""), believing(&authority), &env);
    let mut other = other.start().await.unwrap();
    goes_through(&other, "a").await;
    end_worker(&mut other).await;
    let why = "the server does not begin with TLS: leave NATS_TLS_FIRST out";
    are_refused(&other, &[("NATS_TLS_FIRST", "true")], why).await;
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_one() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let foreign = Authority::new(&files.path("foreign")).unwrap();
    let server = authority.issue("server", &HOSTS).unwrap();
    let client = authority.issue("client", &[]).unwrap();
    let ca = text(authority.certificate());
    let own = believing(&authority)
        .add_client_certificate(client.certificate.clone(), client.key.clone());
    let env: Env = vec![
        ("NATS_CA_FILE", ca.clone()),
        ("NATS_CERT_FILE", text(&client.certificate)),
        ("NATS_KEY_FILE", text(&client.key)),
    ];
    let config = config(&server, &format!("  ca_file: {ca:?}\n  verify: true\n"));
    let mut stack: Stack = guarded(&config, own, &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let none = [("NATS_CERT_FILE", ""), ("NATS_KEY_FILE", "")];
    are_refused(&stack, &none, "set NATS_CERT_FILE and NATS_KEY_FILE").await;
    let expired = authority.issue_expired("expired", &[]).unwrap();
    let theirs = foreign.issue("client", &[]).unwrap();
    for wrong in [expired, theirs] {
        let (certificate, key) = (text(&wrong.certificate), text(&wrong.key));
        let env = [("NATS_CERT_FILE", certificate.as_str()), ("NATS_KEY_FILE", &key)];
        let why = format!("it may not believe the certificate in {certificate}");
        are_refused(&stack, &env, &why).await;
    }
}

/// A cluster's nodes say where the others are before TLS begins, and so could anybody.
#[tokio::test]
async fn a_worker_connects_to_no_server_that_it_was_not_told_of() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let server = authority.issue("server", &HOSTS).unwrap();
    let env: Env = vec![("NATS_CA_FILE", text(authority.certificate()))];
    let builder = guarded(&config(&server, ""), believing(&authority), &env).cluster();
    let mut stack = builder.start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let url = stack.nats.node(0).url();
    let worker = stack.start_worker_with(&[("NATS_URL", &url)], &[]).await.unwrap();
    stack.nats.node_mut(0).process.kill9();
    let log = worker.process.log();
    stack
        .wait_until("the worker has tried in vain", SOON, async || {
            log.text().matches("event: client error").count() >= 3
        })
        .await;
    assert_eq!(log.text().matches("event: connected").count(), 1);
    let answer = e2e::http::get(worker.ops, "/readyz").await.unwrap();
    assert!(answer.text().contains("the broker is not connected: "), "{}", answer.text());
    drop(worker);

    // With all of them in its address it goes on.
    stack.start_worker().await.unwrap();
    goes_through_again(&stack, "b").await;
}
