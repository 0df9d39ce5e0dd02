//! One trace from the request through the stream to the commit, as a real collector takes it; and
//! the lines of the log that lead there.

use std::fs;

use e2e::certificates::Authority;
use e2e::collector::{Collector, Receiver, Span};
use e2e::http::Answer;
use e2e::process::Process;
use e2e::stack::{Builder, Db, Stack};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use shared::bundle;
use worker::entity::job::Status;

use crate::expect::*;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Milliseconds that spans wait for others to leave with.
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";
const NEVER: &str = "600000";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER: &str = "00f067aa0ba902b7";

/// Two partitions and all decisions in the log.
fn builder() -> Builder {
    let log = "info,ingress::decision_log=debug,worker::partition::decision_log=debug";
    Stack::builder().partitions(2).env("RUST_LOG", log)
}

async fn post(stack: &Stack, body: &Value, traceparent: Option<&str>) -> Answer {
    let body = body.to_string();
    let signature = stack.sign(body.as_bytes());
    let mut headers = vec![("x-signature", signature.as_str())];
    headers.extend(traceparent.map(|traceparent| ("traceparent", traceparent)));
    stack.ingress.post(&headers, body).await.unwrap()
}

fn callback(job: &str) -> Value {
    json!({ "job_id": job, "status": "running", "workflow_run_id": "77", "run_attempt": 2 })
}

/// The spans of a trace, as soon as there are so many.
async fn trace(stack: &Stack, collector: &Collector, id: &str, count: usize) -> Vec<Span> {
    let what = format!("{count} spans of the trace {id} at the collector");
    stack
        .wait_for(&what, SOON, async || {
            let mut spans = collector.spans();
            spans.retain(|span| span.trace == id);
            (spans.len() >= count).then_some(spans)
        })
        .await
}

/// The one span of that name.
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    match (named.next(), named.next()) {
        (Some(one), None) => one,
        _ => panic!("not one span is named {name:?}: {spans:#?}"),
    }
}

/// Checks a callback's way: what the request's parent is, and who linked the commit.
fn assert_way(spans: &[Span], parent: &str, job: &str) {
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let request = one(spans, "receive callback");
    let publish = one(spans, "publish callback");
    let apply = one(spans, "apply callback");
    assert_eq!((request.kind, request.service.as_str()), (SpanKind::Server, "ackline-ingress"));
    assert_eq!((publish.kind, publish.service.as_str()), (SpanKind::Producer, "ackline-ingress"));
    assert_eq!((apply.kind, apply.service.as_str()), (SpanKind::Consumer, "ackline-worker"));
    assert_eq!(request.parent, parent);
    assert_eq!(publish.parent, request.id);
    assert_eq!(apply.parent, publish.id);
    for span in spans {
        assert!(!span.is_error && span.nanos.0 <= span.nanos.1, "{span:#?}");
    }
    assert!(request.nanos.0 <= publish.nanos.0 && publish.nanos.1 <= request.nanos.1);

    assert_eq!(request.get("http.request.method"), "POST");
    assert_eq!(request.get("http.route"), "/api/webhooks/github");
    assert_eq!(request.get("http.response.status_code"), "200");
    for span in [publish, apply] {
        assert_eq!(span.get("messaging.system"), "nats");
        assert_eq!(span.get("ackline.job.id"), job);
        let partition = span.get("messaging.destination.partition.id");
        assert_eq!(span.get("messaging.destination.name"), format!("CALLBACKS-1-{partition}"));
    }
    for key in ["ackline.stream.sequence", "ackline.bundle.index"] {
        assert!(!publish.get(key).is_empty());
        assert_eq!(publish.get(key), apply.get(key), "{key}");
    }
    assert_eq!(apply.get("cicd.pipeline.run.id"), "77");
    assert_eq!(apply.get("ackline.run.attempt"), "2");
    assert_eq!(apply.get("ackline.kind"), "running");
    assert_eq!(apply.get("ackline.outcome"), "applied");
}

#[tokio::test]
async fn a_trace_leads_from_the_request_through_the_stream_to_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await.unwrap();
    let stack = builder().env(ENDPOINT, collector.endpoint()).env(DELAY, "50");
    let stack = stack.start().await.unwrap();

    // Whoever is not traced, or has no secret, leaves nothing.
    let unsampled = format!("00-{}-{SENDER}-00", "a".repeat(32));
    assert_eq!(post(&stack, &callback("unsampled"), Some(&unsampled)).await.status, 200);
    let stranger = format!("00-{}-{SENDER}-01", "b".repeat(32));
    let headers = [("x-signature", "no"), ("traceparent", stranger.as_str())];
    assert_eq!(stack.ingress.post(&headers, "{}").await.unwrap().status, 401);

    let incoming = format!("00-{TRACE}-{SENDER}-01");
    assert_eq!(post(&stack, &callback("traced"), Some(&incoming)).await.status, 200);
    let traced = trace(&stack, &collector, TRACE, 3).await;
    assert_way(&traced, SENDER, "traced");

    // Without a context a trace begins here.
    assert_eq!(post(&stack, &callback("begun"), None).await.status, 200);
    let begun = stack
        .wait_for("a trace that begins with the request", SOON, async || {
            let spans = collector.spans();
            let named = |span: &&Span| span.get("ackline.job.id") == "begun";
            Some(spans.iter().find(named)?.trace.clone())
        })
        .await;
    let begun = trace(&stack, &collector, &begun, 3).await;
    assert_way(&begun, "", "begun");
    assert_ne!(begun[0].trace, TRACE);

    // The batch of each links its callback, and is linked by what it applied.
    for spans in [&traced, &begun] {
        let (publish, apply) = (one(spans, "publish callback"), one(spans, "apply callback"));
        let link = (publish.trace.clone(), publish.id.clone());
        let batch = stack
            .wait_for("the batch's span", SOON, async || {
                let spans = collector.spans();
                spans.into_iter().find(|span| span.links.contains(&link))
            })
            .await;
        assert_eq!((batch.name.as_str(), batch.parent.as_str()), ("commit batch", ""));
        assert_eq!(apply.links, [(batch.trace.clone(), batch.id.clone())]);
        assert_eq!(batch.get("messaging.batch.message_count"), "1");
        assert!(batch.nanos.1 <= apply.nanos.1);
    }

    // What is refused although it is signed shows where and why.
    let refused = format!("00-{}-{SENDER}-01", "c".repeat(32));
    assert_eq!(post(&stack, &json!({ "job_id": "" }), Some(&refused)).await.status, 400);
    let refused = trace(&stack, &collector, &"c".repeat(32), 1).await;
    let request = one(&refused, "receive callback");
    assert_eq!(request.get("http.response.status_code"), "400");
    assert_eq!(request.get("ackline.reason"), "malformed");
    assert!(!request.is_error);

    let spans = collector.spans();
    let absent = |digit: &str| spans.iter().all(|span| span.trace != digit.repeat(32));
    assert!(absent("a") && absent("b"), "{spans:#?}");
    let shown = format!("{spans:?}");
    assert!(!shown.contains(stack.secret()) && !shown.contains("workflow_run_id"), "{shown}");
}

#[tokio::test]
async fn the_last_spans_leave_before_the_process_does() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await.unwrap();
    let stack = builder().env(ENDPOINT, collector.endpoint()).env(DELAY, NEVER);
    let mut stack = stack.start().await.unwrap();
    let incoming = format!("00-{TRACE}-{SENDER}-01");
    assert_eq!(post(&stack, &callback("a"), Some(&incoming)).await.status, 200);
    let db = stack.db().await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Running).await;
    assert_eq!(collector.spans(), []);
    db.close().await.unwrap();
    stack.shut_down().await.unwrap();
    assert_way(&trace(&stack, &collector, TRACE, 3).await, SENDER, "a");
}

#[tokio::test]
async fn a_batch_links_as_many_callbacks_as_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await.unwrap();
    let stack = builder().partitions(1).env(ENDPOINT, collector.endpoint()).env(DELAY, "50");
    let mut stack = stack.start().await.unwrap();
    // While nobody applies, they gather.
    stack.worker.process.kill9();
    let mut posts = Vec::new();
    for number in 0..200 {
        posts.push(post_later(&stack, callback(&format!("job-{number}")).to_string()));
    }
    for post in posts {
        assert_eq!(post.await.unwrap().unwrap().status, 200);
    }
    stack.start_worker().await.unwrap();
    let applied = stack
        .wait_for("a span for each callback", SOON, async || {
            let mut spans = collector.spans();
            spans.retain(|span| span.name == "apply callback");
            (spans.len() == 200).then_some(spans)
        })
        .await;
    // There may be more than one batch, but not one for each.
    let batches = stack
        .wait_for("the spans of all batches", SOON, async || {
            let mut spans = collector.spans();
            spans.retain(|span| span.name == "commit batch");
            (spans.iter().map(|span| span.links.len()).sum::<usize>() == 200).then_some(spans)
        })
        .await;
    assert!(batches.iter().any(|batch| batch.links.len() > 128), "{}", batches.len());
    for span in applied {
        assert!(
            batches
                .iter()
                .any(|batch| batch.links.contains(&(span.trace.clone(), span.parent.clone())))
        );
    }
}

/// The lines of a process's log that are about this job.
fn lines_about(process: &Process, job: &str) -> Vec<Value> {
    let text = process.log().text();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["job"] == job).collect()
}

/// Whether a process has the thread that exports.
fn exports(process: &Process) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    names.flatten().any(|name| name.starts_with("OpenTelemetry"))
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_exported_and_a_trace_is_passed_on_and_logged() {
    let stack = builder().start().await.unwrap();
    let incoming = format!("00-{TRACE}-{SENDER}-01");
    assert_eq!(post(&stack, &callback("a"), Some(&incoming)).await.status, 200);
    let db = stack.db().await.unwrap();
    wait_for_status(&stack, &db, "a", Status::Running).await;
    assert!(!exports(&stack.ingress.process) && !exports(&stack.worker.process));

    let event = events(&db).await.remove(0);
    let jetstream = async_nats::jetstream::new(stack.nats.client().await.unwrap());
    let stream = jetstream.get_stream(format!("CALLBACKS-1-{:02}", event.partition)).await.unwrap();
    let message = stream.get_raw_message(event.seq as u64).await.unwrap();
    let entries = bundle::decode(&message.payload).unwrap();
    assert_eq!(entries[0].metadata.traceparent.unwrap().to_string(), incoming);

    // One line each, with what leads from one to the other.
    let expected = json!({
        "job": "a", "partition": format!("{:02}", event.partition), "seq": event.seq,
        "idx": event.idx, "trace_id": TRACE,
    });
    let worker = stack
        .wait_for("the worker's line", SOON, async || lines_about(&stack.worker.process, "a").pop())
        .await;
    let ingress = lines_about(&stack.ingress.process, "a");
    assert_eq!(ingress.len(), 1, "{ingress:?}");
    for line in [&worker, &ingress[0]] {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} in {line}");
        }
    }
    let said = ["run", "kind", "outcome"].map(|field| worker[field].as_str().unwrap());
    assert_eq!((said, &worker["attempt"]), (["77", "running", "applied"], &json!(2)));
    assert_eq!(ingress[0]["outcome"], "accepted");
}

// Waiting for a line blocks a thread.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_spoken_of_once_and_holds_nobody_up() {
    let nobody = Receiver::start(None).await.unwrap().address();
    let stack = builder().env(ENDPOINT, format!("http://{nobody}")).env(DELAY, "20");
    let mut stack = stack.start().await.unwrap();
    let db = stack.db().await.unwrap();
    for job in ["a", "b", "c"] {
        assert_eq!(post(&stack, &callback(job), None).await.status, 200);
        wait_for_status(&stack, &db, job, Status::Running).await;
        for process in [&stack.ingress.process, &stack.worker.process] {
            process
                .wait_for_line(|line| line.contains("spans are not exported"), SOON)
                .await
                .unwrap();
        }
    }
    assert!(exports(&stack.ingress.process) && exports(&stack.worker.process));
    db.close().await.unwrap();
    stack.shut_down().await.unwrap();
    for process in [&stack.ingress.process, &stack.worker.process] {
        let text = process.log().text();
        assert_eq!(text.matches("spans are not exported").count(), 1, "{text}");
    }
}

// Waiting for a line blocks a thread.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_may_speak_tls_with_a_certificate_that_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(&dir.path().join("tls")).unwrap();
    let issued = authority.issue("collector", &["localhost"]).unwrap();
    let receiver = Receiver::start(Some(&issued)).await.unwrap();
    let endpoint = format!("https://localhost:{}", receiver.address().port());
    let authorities = authority.certificate().to_str().unwrap();
    let stack = builder()
        .env(ENDPOINT, &endpoint)
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", authorities)
        .env("OTEL_SERVICE_NAME", "of-my-own")
        .env(DELAY, "20");
    let stack = stack.start().await.unwrap();
    assert_eq!(post(&stack, &callback("a"), None).await.status, 200);
    let spans = stack
        .wait_for("spans over TLS", SOON, async || {
            let spans = receiver.spans();
            (spans.len() >= 4).then_some(spans)
        })
        .await;
    assert!(spans.iter().all(|span| span.service == "of-my-own"), "{spans:#?}");

    let other = Authority::new(&dir.path().join("other")).unwrap();
    let other = other.certificate().to_str().unwrap();
    let env = [("OTEL_EXPORTER_OTLP_CERTIFICATE", other)];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let body = callback("b").to_string();
    let headers = [("x-signature", &*stack.sign(body.as_bytes()))];
    assert_eq!(ingress.post(&headers, body).await.unwrap().status, 200);
    let is_refused =
        |line: &str| line.contains("spans are not exported") && line.contains("certificate");
    ingress.process.wait_for_line(is_refused, SOON).await.unwrap();
}

#[tokio::test]
async fn bad_settings_are_named_before_anything_starts() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    for binary in ["ackline-ingress", "ackline-worker"] {
        let program = stack
            .program(binary)
            .unwrap()
            .env("OPS_LISTEN", "127.0.0.1:0")
            .env("LOG_FORMAT", "yaml")
            .env(ENDPOINT, "collector:4317")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization: hunter2");
        let (code, why) = run(&stack, &program).await;
        assert_eq!(code, 2, "{binary}: {why}");
        for name in ["LOG_FORMAT", ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS"] {
            assert!(why.contains(&format!("{name}: must be")), "{name} in {why}");
        }
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[tokio::test]
async fn the_log_is_text_where_it_is_asked_for() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let program = stack.program("ackline-ingress").unwrap().env("LOG_FORMAT", "text");
    let program = program.env("INGRESS_LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
    let process = stack.spawn(&program).unwrap();
    let is_text = |line: &str| line.contains(" INFO ") && line.contains("listening");
    let line = process.wait_for_line(is_text, SOON).await.unwrap();
    assert!(!line.contains('\u{1b}') && !line.starts_with('{'), "{line}");
}

#[tokio::test]
async fn a_dead_letter_is_told_once_when_it_is_committed_and_again_when_it_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await.unwrap();
    let stack = builder().partitions(1).env(ENDPOINT, collector.endpoint()).env(DELAY, "50");
    let stack = stack.start().await.unwrap();
    refuse_poison(&stack, Db::Sqlite).await;
    let incoming = format!("00-{TRACE}-{SENDER}-01");
    let poison: Value = serde_json::from_str(&poison("a")).unwrap();
    assert_eq!(post(&stack, &poison, Some(&incoming)).await.status, 200);
    let told = async |count: usize| {
        stack
            .wait_for("a line for each decision", SOON, async || {
                let lines = lines_about(&stack.worker.process, "a");
                (lines.len() >= count).then_some(lines)
            })
            .await
    };
    let dead = told(1).await.remove(0);
    assert_eq!([&dead["level"], &dead["outcome"], &dead["trace_id"]], ["ERROR", "dead", TRACE]);
    // What the database says of it may quote it.
    assert_eq!(dead["reason"], Value::Null, "{dead}");
    let spans = trace(&stack, &collector, TRACE, 3).await;
    let apply = one(&spans, "apply callback");
    assert!(apply.is_error, "{apply:#?}");
    assert_eq!(apply.get("ackline.outcome"), "dead");

    accept(&stack, status("a", "running")).await;
    accept_poison(&stack, Db::Sqlite).await;
    let position = format!("00/{}/{}", dead["seq"], dead["idx"]);
    stack.ackline_json(&["dead-letters", "requeue", &position, "--json"]).await.unwrap();
    let lines = told(4).await;
    let outcomes: Vec<&Value> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["dead", "held", "applied", "applied"], "{lines:#?}");
    assert_eq!([&lines[2]["seq"], &lines[2]["idx"]], [&dead["seq"], &dead["idx"]]);
}
