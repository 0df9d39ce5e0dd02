//! The HTTP contract: every row of its table, with its exact status and body.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use e2e::http::{Answer, Client};
use e2e::stack::{CALLBACK_PATH, Db, Ingress, Stack};
use hyper::Method;
use serde_json::json;
use shared::partition::Layout;

use crate::expect::*;
use crate::raw::{Raw, head};

const INVALID_SIGNATURE: &str = r#"{"error":"Invalid signature"}"#;

async fn send(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    Client::new(to).send(method, path, headers, body.into()).await.unwrap()
}

async fn in_flight(ingress: &Ingress) -> f64 {
    series(ingress.ops, "ackline_ingress_in_flight", &[]).await
}

#[tokio::test]
async fn what_is_refused_by_its_head_signature_or_content() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let to = stack.ingress.addr;
    let good = status("a", "queued");

    let other_path = send(to, Method::POST, "/api/webhooks/gitlab", &[], good.clone()).await;
    assert_eq!((other_path.status, other_path.text().as_str()), (404, r#"{"error":"Not found"}"#));
    for path in ["/", "/api/webhooks/github/", "/API/webhooks/github"] {
        assert_eq!(send(to, Method::GET, path, &[], "").await.status, 404, "{path}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS, Method::HEAD] {
        let answer = send(to, method.clone(), CALLBACK_PATH, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"), "{method}");
        if method != Method::HEAD {
            assert_eq!(answer.text(), r#"{"error":"Method not allowed"}"#);
        }
    }

    let signature = stack.sign(good.as_bytes());
    let signed_by_another = e2e::stack::sign("another secret", good.as_bytes());
    // Missing, malformed, wrong, and one too many; the tests of `ingress/src/signature` have all.
    let refused: [&[(&str, &str)]; 4] = [
        &[],
        &[("x-signature", &signature[..62])],
        &[("x-signature", &signed_by_another)],
        &[("x-signature", &signature), ("x-signature", &signature)],
    ];
    let mut first: Option<Answer> = None;
    for headers in refused {
        let answer = stack.ingress.post(headers, good.clone()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (401, INVALID_SIGNATURE));
        let mut answer = answer;
        answer.headers.remove("date");
        if let Some(first) = &first {
            assert_eq!(answer.headers, first.headers, "nothing tells the cases apart");
        }
        first.get_or_insert(answer);
    }
    // Outside the replay window: the same bytes as a wrong signature.
    let at = |offset_s: i64, job: &str| {
        json!({ "job_id": job, "status": "queued", "sent_at": now().timestamp() + offset_s })
            .to_string()
    };
    for offset in [-310, 310] {
        let answer = stack.post(at(offset, "replayed")).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (401, INVALID_SIGNATURE));
    }
    for offset in [-250, 0, 250] {
        accept(&stack, at(offset, "timely")).await;
    }

    // The parser's tests, in `shared/src/callback`, have every other way.
    for (body, error) in [
        ("{", "Invalid JSON"),
        (r#"{"status":"queued"}"#, "Missing job_id"),
        (r#"{"job_id":"a"}"#, "Missing status or type"),
        (r#"{"job_id":"a","status":"queued","sent_at":"soon"}"#, "Invalid sent_at"),
    ] {
        let answer = stack.post(body).await.unwrap();
        let expected = json!({ "error": error }).to_string();
        assert_eq!((answer.status, answer.text()), (400, expected), "{body}");
    }

    accept(&stack, good).await;
    let heartbeat = json!({ "job_id": "a", "type": "heartbeat", "unknown": { "x": 1 } });
    accept(&stack, heartbeat.to_string()).await;
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let ids: Vec<String> = jobs(&db).await.into_iter().map(|job| job.id).collect();
    assert_eq!(ids, ["a", "timely"], "nothing that was refused left a trace");
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let too_large = r#"{"error":"Body too large"}"#;

    // At the limit it is read; one byte more is not.
    let padded = |bytes: usize| {
        let body = status("a", "queued");
        let padding = " ".repeat(bytes - body.len());
        body + &padding
    };
    accept(&stack, padded(65_536)).await;
    let declared = stack.post(padded(65_537)).await.unwrap();
    assert_eq!((declared.status, declared.text().as_str()), (413, too_large));
    assert_eq!(declared.header("connection"), "close");

    // Streamed without a length, as chunks; the sender has sent it all before it reads.
    let mut streamed = Raw::open(stack.ingress.addr).await;
    streamed
        .say(format!(
            "POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    let chunk = "x".repeat(65_536);
    for _ in 0..16 {
        streamed.say(format!("10000\r\n{chunk}\r\n")).await;
    }
    streamed.say("0\r\n\r\n").await;
    let answer = streamed.hear().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(too_large), "{answer}");

    // curl sees the answer, and no reset.
    let file = stack.dir().join("large");
    std::fs::write(&file, vec![b'x'; 4 << 20]).unwrap();
    for more in [&[][..], &["-H", "Expect:"], &["-H", "Transfer-Encoding: chunked"]] {
        let curl = tokio::process::Command::new("curl")
            .args(["-sS", "--noproxy", "*", "-w", "%{http_code}", "--data-binary"])
            .arg(format!("@{}", file.display()))
            .args(more)
            .arg(stack.callback_url())
            .output()
            .await
            .unwrap();
        let (output, errors) =
            (String::from_utf8_lossy(&curl.stdout), String::from_utf8_lossy(&curl.stderr));
        assert!(curl.status.success(), "{more:?}: {errors}");
        assert_eq!(output, format!("{too_large}413"), "{more:?}");
    }

    let impatient = stack.start_ingress_with(&[("BODY_TIMEOUT", "200ms")], &[]).await.unwrap();
    let mut slow = Raw::open(impatient.addr).await;
    slow.say(head(100) + "\r\nhalf").await;
    let answer = slow.hear().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.ends_with(r#"{"error":"Body not received in time"}"#), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

fn assert_unavailable(answer: &Answer, error: &str) {
    let expected = json!({ "error": error }).to_string();
    assert_eq!((answer.status, answer.text()), (503, expected));
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{:?}", answer.headers);
}

#[tokio::test]
async fn what_can_be_tried_again_is_told_so_before_its_body_is_read() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let narrow = stack.start_ingress_with(&[("MAX_IN_FLIGHT", "1")], &[]).await.unwrap();

    let mut slow = Raw::open(narrow.addr).await;
    slow.say(head(50) + "\r\nhalf").await;
    stack
        .wait_until("the slow request is in flight", SOON, async || in_flight(&narrow).await == 1.0)
        .await;
    let body = status("a", "queued");
    let signature = stack.sign(body.as_bytes());
    let headers = [("x-signature", signature.as_str())];
    let answer = narrow.post(&headers, body.clone()).await.unwrap();
    assert_unavailable(&answer, "Too many requests in flight");
    drop(slow);

    // A head that is still coming when the shutdown begins.
    let mut narrow = narrow;
    let mut late = Raw::open(narrow.addr).await;
    late.say(head(body.len())).await;
    let mut busy = Raw::open(narrow.addr).await;
    stack.wait_until("nothing is in flight", SOON, async || in_flight(&narrow).await == 0.0).await;
    busy.say(head(body.len()) + &format!("X-Signature: {signature}\r\n\r\n") + &body[..9]).await;
    stack
        .wait_until("the busy request is in flight", SOON, async || in_flight(&narrow).await == 1.0)
        .await;
    narrow.process.ask_to_end();
    let log = narrow.process.log();
    stack
        .wait_until("ingress shuts down", SOON, async || log.text().contains("\"shutting down\""))
        .await;
    late.say("\r\n").await;
    busy.say(&body[9..]).await;
    let (late, busy) = (late.hear().await, busy.hear().await);
    assert!(late.starts_with("HTTP/1.1 503 "), "{late}");
    assert!(late.ends_with(r#"{"error":"Shutting down"}"#), "{late}");
    assert!(late.to_lowercase().contains("retry-after: 1"), "{late}");
    assert!(busy.ends_with(r#"{"received":true}"#), "what was in flight is finished: {busy}");
    assert!(narrow.process.wait(SOON).await.unwrap().success());
}

#[tokio::test]
async fn no_confirmation_by_the_deadline_is_not_a_success() {
    let stack = Stack::builder().env("PUBLISH_DEADLINE", "700ms").start().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    stack.nats.pause();
    // Another partition than the first callback's, so that nothing is on its way there.
    assert_ne!(Layout::new(1, 16).of_job("a"), Layout::new(1, 16).of_job("c"));
    let answer = stack.post(status("c", "provisioning")).await.unwrap();
    assert_unavailable(&answer, "Not confirmed in time");
    stack.nats.resume();
    stack
        .wait_until("callbacks are accepted again", Duration::from_secs(30), async || {
            stack.post(status("a", "running")).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    let job = wait_for_status(&stack, &db, "a", worker::entity::job::Status::Running).await;
    assert_eq!(job.first_seq, 1);
}
