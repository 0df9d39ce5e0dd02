//! The API as programs use it.

use bytes::Bytes;
use e2e::http::Client;
use e2e::stack::{Db, Stack};
use hyper::Method;
use serde_json::json;

use super::{get, json as ask};
use crate::expect::*;

on_each_database!(a_job_and_its_events_are_as_the_tables_have_them);

async fn a_job_and_its_events_are_as_the_tables_have_them(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let id = "odd id/../ü?&#";
    let address = "odd%20id%2F..%2F%C3%BC%3F%26%23";
    accept(&stack, status(id, "queued")).await;
    accept(&stack, status(id, "provisioning")).await;
    accept(&stack, status(id, "provisioning")).await;
    accept(&stack, heartbeat(id)).await;
    let failed = json!({ "job_id": id, "status": "failed", "error": "why", "failed_step": "s" });
    accept(&stack, failed.to_string()).await;
    // Whoever waits gets it as soon as it has finished.
    let waited = ask(&stack, &format!("/api/v1/jobs/{address}?wait=60s&until=finished"), 200).await;
    assert_eq!((&waited["id"], &waited["status"]), (&json!(id), &json!("failed")));
    assert_eq!((&waited["failure"], &waited["error"]), (&json!("reported"), &json!("why")));
    assert_eq!(waited["heartbeat_count"], 1);

    let mut path = format!("/api/v1/jobs/{address}/events?limit=3");
    let mut kinds = Vec::new();
    loop {
        let page = ask(&stack, &path, 200).await;
        for event in page["items"].as_array().unwrap() {
            kinds.push((event["kind"].clone(), event["outcome"].clone()));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/jobs/{address}/events?limit=3&after={next}");
    }
    let kinds: Vec<_> =
        kinds.iter().map(|(kind, effect)| (kind.as_str(), effect.as_str())).collect();
    let applied = Some("applied");
    assert_eq!(
        kinds,
        [
            (Some("queued"), applied),
            (Some("provisioning"), applied),
            (Some("provisioning"), Some("unchanged")),
            (Some("failed"), applied),
        ]
    );
    // The totals are counted at the next look.
    stack
        .wait_until("the job is counted", SOON, async || {
            ask(&stack, "/api/v1/overview", 200).await["jobs"]["failed"] == json!(1)
        })
        .await;
    // A look reads the checkpoints before it counts.
    stack
        .wait_until("what was applied is counted", SOON, async || {
            let partitions = ask(&stack, "/api/v1/partitions", 200).await;
            let applied = partitions["items"].as_array().unwrap().iter();
            applied.map(|state| state["applied_callbacks"].as_u64().unwrap()).sum::<u64>() == 5
        })
        .await;
}

#[tokio::test]
async fn who_has_an_answer_already_is_spared_it() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    ask(&stack, "/api/v1/jobs/a?wait=1s&until=finished", 200).await;
    for path in ["/api/v1/jobs", "/api/v1/jobs/a", "/jobs", "/assets/console.css"] {
        let first = get(&stack, path).await;
        let tag = first.header("etag").to_owned();
        assert!(first.status == 200 && tag.len() > 2, "{path}");
        let again = async |tag: &str| {
            let known = [("if-none-match", tag)];
            Client::new(stack.worker.ops)
                .send(Method::GET, path, &known, Bytes::new())
                .await
                .unwrap()
        };
        let spared = again(&tag).await;
        assert!(spared.status == 304 && spared.body.is_empty(), "{path}: {}", spared.status);
        assert_eq!(spared.header("etag"), tag);
        assert_eq!(again("\"another\"").await.status, 200, "{path}");
    }
    let before = get(&stack, "/api/v1/jobs/a").await.header("etag").to_owned();
    accept(&stack, status("a", "running")).await;
    ask(&stack, "/api/v1/jobs/a?wait=60s&until=finished", 200).await;
    assert_ne!(get(&stack, "/api/v1/jobs/a").await.header("etag"), before);
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_a_problem_in_words() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    for (path, code, words) in [
        ("/api/v1/jobs/none", 404, "there is no job \"none\""),
        ("/api/v1/jobs/none?wait=1s", 404, "there is no job"),
        ("/api/v1/jobs/none/events", 404, "there is no job"),
        ("/api/v1/jobs?status=done", 400, "status"),
        ("/api/v1/jobs?limit=0", 400, "limit"),
        ("/api/v1/jobs?limit=many", 400, "limit"),
        ("/api/v1/jobs?after=nonsense", 400, "after"),
        ("/api/v1/jobs?created_from=yesterday", 400, "created_from"),
        ("/api/v1/jobs?stauts=failed", 400, "stauts"),
        ("/api/v1/jobs/a?wait=2h", 400, "wait"),
        ("/api/v1/jobs/a?wait=1s&until=tea", 400, "until"),
        ("/api/v1/dead-letters/1", 400, "PARTITION-SEQUENCE-INDEX"),
        ("/api/v1/stream?from=x", 400, "from"),
        ("/api/v1/stream?from=1,2", 400, "from"),
        ("/api/v1/nothing", 404, "nothing is here"),
    ] {
        let answer = get(&stack, path).await;
        assert_eq!(answer.status, code, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], code, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{path}: {problem}");
    }
    let deleted = Client::new(stack.worker.ops)
        .send(Method::DELETE, "/api/v1/jobs/a", &[], Bytes::new())
        .await
        .unwrap();
    assert_eq!((deleted.status, deleted.header("allow")), (405, "GET,HEAD"));
    assert_eq!(deleted.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn people_are_told_on_a_page_what_is_wrong() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    for (path, code, words) in [
        ("/job", 400, "missing field `id`"),
        ("/job?id=none", 404, "there is no such job"),
        ("/jobs?status=done", 400, "&quot;done&quot;"),
        ("/jobs?after=nonsense", 400, "after"),
        ("/dead-letter?at=1", 400, "PARTITION-SEQUENCE-INDEX"),
        ("/nothing", 404, "nothing is here"),
    ] {
        let answer = get(&stack, path).await;
        assert_eq!(answer.status, code, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
    }
}
