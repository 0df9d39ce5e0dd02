//! What curl, with the options that senders use, makes of the answers.

use std::process::{Output, Stdio};

use e2e::stack::Stack;
use tokio::process::Command;
use worker::entity::job::Status;

use crate::expect::*;

/// curl as a script would call it, with a body and its signature.
fn curl(stack: &Stack, options: &[&str], signature: &str, body: &str) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["--disable", "--noproxy", "*"])
        .args(options)
        .args(["--header", &format!("X-Signature: {signature}"), "--data-binary", body])
        .arg(stack.callback_url())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// How many requests were refused; for this reason, or for any.
async fn refused(stack: &Stack, reason: Option<&str>) -> f64 {
    let labels: Vec<(&str, &str)> = reason.map(|reason| ("reason", reason)).into_iter().collect();
    series(stack.ingress.ops, "ackline_ingress_refused_total", &labels).await
}

#[tokio::test]
async fn a_script_sees_what_became_of_its_callback() {
    let stack = Stack::builder().start().await.unwrap();
    let body = status("a", "queued");
    let (good, bad) = (stack.sign(body.as_bytes()), stack.sign(b"another body"));
    let (received, invalid) = (r#"{"received":true}"#, r#"{"error":"Invalid signature"}"#);
    for (options, signature, code, answer) in [
        (&["-sf"][..], &good, 0, received),
        (&["-sf"], &bad, 22, ""),
        (&["-s", "--fail-with-body"], &good, 0, received),
        (&["-s", "--fail-with-body"], &bad, 22, invalid),
    ] {
        let output = curl(&stack, options, signature, &body).output().await.unwrap();
        let expected = (Some(code), answer.to_owned(), String::new());
        assert_eq!(text(&output), expected, "{options:?}");
    }

    let before = refused(&stack, None).await;
    let retry = ["-sf", "--retry", "5", "--retry-delay", "1"];
    let output = curl(&stack, &retry, &bad, &body).output().await.unwrap();
    assert_eq!(text(&output), (Some(22), String::new(), String::new()));
    let tries = refused(&stack, None).await - before;
    assert_eq!(tries, 1.0, "a refusal for good is not tried again");
}

#[tokio::test]
async fn a_retrying_curl_outlives_the_broker() {
    let mut stack = Stack::builder().start().await.unwrap();
    let body = status("a", "queued");
    let signature = stack.sign(body.as_bytes());
    stack.nats.stop_server().await.unwrap();

    stack
        .wait_until("ingress knows that the broker is gone", SOON, async || {
            series(stack.ingress.ops, "ackline_ingress_broker_up", &[]).await == 0.0
        })
        .await;

    // Each time after what Retry-After says.
    let options = ["--silent", "--fail", "--retry", "30"];
    let retrying =
        curl(&stack, &options, &signature, &body).stdout(Stdio::piped()).spawn().unwrap();
    stack
        .wait_until("curl has been told to try again", SOON, async || {
            refused(&stack, Some("broker_down")).await > 0.0
        })
        .await;
    stack.nats.restart().await.unwrap();
    let output = retrying.wait_with_output().await.unwrap();
    assert_eq!(text(&output), (Some(0), r#"{"received":true}"#.to_owned(), String::new()));

    let db = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &db, "a", Status::Queued).await;
    assert_eq!(job.first_seq, 1);
    let unavailable = refused(&stack, Some("broker_down")).await;
    assert_eq!(unavailable, refused(&stack, None).await, "nothing else was refused");
    assert_eq!(events(&db).await.len(), 1);
}
