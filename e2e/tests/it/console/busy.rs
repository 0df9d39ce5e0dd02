//! Who gets an answer while others hold what they can of the listener.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::http::{Answer, Client, get};
use e2e::stack::Stack;
use hyper::Method;
use rstest::rstest;

use super::{TOKEN, guarded};
use crate::expect::SOON;
use crate::raw::Raw;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
/// As many as the listener has connections.
const ATTACKERS: usize = 64;
/// What a probe of an orchestrator waits for an answer.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

async fn log_in(stack: &Stack, body: impl Into<Bytes>) -> Answer {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = body.into();
    Client::new(stack.worker.ops).send(Method::POST, "/login", &form, body).await.unwrap()
}

/// Opens connections, each with a request whose body does not end.
async fn begin(stack: &Stack, request: &str) -> Vec<Raw> {
    let mut held = Vec::new();
    for _ in 0..ATTACKERS {
        let mut raw = Raw::open(stack.worker.ops).await;
        raw.say(request).await;
        held.push(raw);
    }
    held
}

async fn probes_are_answered(stack: &Stack, case: &str) {
    for path in ["/livez", "/readyz", "/metrics"] {
        let asked = Instant::now();
        let answer = get(stack.worker.ops, path).await;
        let took = asked.elapsed();
        let status = answer.as_ref().map(|answer| answer.status).ok();
        assert_eq!(status, Some(200), "{path} beside {case}: {answer:?}");
        assert!(took < PROBE_LIMIT, "{path} beside {case} took {took:?}");
    }
}

#[rstest]
#[case::once(Duration::ZERO)]
#[ignore = "long: make test-console"]
#[case::for_half_a_minute(Duration::from_secs(30))]
#[tokio::test]
async fn bodies_that_never_end_keep_nobody_out(#[case] attacked: Duration) {
    let stack = guarded().await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n{FORM}");
    for (case, request) in [
        (
            "logins",
            format!("POST /login HTTP/1.1\r\nHost: a\r\n{FORM}Content-Length: 1000\r\n\r\ntoken="),
        ),
        (
            "logins in chunks",
            format!(
                "POST /login HTTP/1.1\r\nHost: a\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n6\r\ntoken="
            ),
        ),
        (
            "decisions",
            format!(
                "POST /dead-letter HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 9\r\n\r\nat="
            ),
        ),
        (
            "orders",
            format!(
                "POST /api/v1/dead-letters/00-1-0/requeue HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 9\r\n\r\n{{"
            ),
        ),
    ] {
        let began = Instant::now();
        loop {
            let held = begin(&stack, &request).await;
            probes_are_answered(&stack, case).await;
            // Whoever is slow gives way to a person.
            stack
                .wait_until("somebody can log in", SOON, async || {
                    let answer = log_in(&stack, format!("token={TOKEN}")).await;
                    assert!([303, 503].contains(&answer.status), "{case}: {}", answer.text());
                    answer.status == 303
                })
                .await;
            drop(held);
            if began.elapsed() >= attacked {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_kept() {
    let stack = guarded().await;
    let padded = |bytes: usize| format!("token={TOKEN}&next={}", "x".repeat(bytes));
    let largest = 32 * 1024 - padded(0).len();
    assert_eq!(log_in(&stack, padded(largest)).await.status, 303);
    let answer = log_in(&stack, padded(largest + 1)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("the body has more than 32768 bytes"), "{}", answer.text());
    let order = Client::new(stack.worker.ops)
        .send(
            Method::POST,
            "/api/v1/dead-letters/00-1-0/requeue",
            &[("authorization", &format!("Bearer {TOKEN}"))],
            vec![b'x'; 32 * 1024 + 1].into(),
        )
        .await
        .unwrap();
    assert_eq!((order.status, order.header("content-type")), (413, "application/problem+json"));
}
