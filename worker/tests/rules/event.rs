//! From messages of the stream to events, orders, and what can't be decoded.

use bytes::Bytes;
use chrono::DateTime;
use shared::bundle::{self, Metadata, Run};
use shared::partition::Layout;
use worker::rules::batch::bury;
use worker::rules::event::{
    Action, Body, Content, MAX_REASON_BYTES, Message, Order, Position, decode, decode_again,
    kept_msg_id, lost_body,
};

fn entry(event_id: Option<&str>, body: &str) -> Bytes {
    let mut metadata = Metadata::new("a", "callback", 0);
    metadata.event_id = event_id.map(Into::into);
    bundle::encode(&metadata, body.as_bytes())
}

fn message(subject: &str, payload: impl Into<Bytes>) -> Message {
    Message {
        seq: 7,
        msg_id: None,
        version: Some("2".into()),
        is_end: false,
        subject: subject.into(),
        at: DateTime::from_timestamp_nanos(1_700_000_000_123_456_789),
        payload: payload.into(),
    }
}

#[test]
fn a_bundle_becomes_events_at_their_positions() {
    let payload = [
        entry(Some("meta"), r#"{"job_id":"a","status":"running"}"#),
        entry(Some("meta"), r#"{"job_id":"a","type":"heartbeat","event_id":"own"}"#),
        entry(None, "{}"),
    ]
    .concat();
    let decoded = decode(&message("callbacks.1.00", payload), Layout::new(1, 1).first());
    assert_eq!(decoded.len(), 3);
    let event_ids: Vec<_> = decoded[..2]
        .iter()
        .map(|incoming| match &incoming.event().unwrap().body {
            Body::Callback(callback) => callback.event_id.clone().unwrap(),
            Body::Lost { .. } => panic!("not a callback"),
        })
        .collect();
    assert_eq!(event_ids, ["meta", "own"]);
    assert_eq!(decoded[1].position, Position { seq: 7, idx: 1 });
    assert_eq!(decoded[1].at.timestamp_subsec_nanos(), 123_456_000);
    assert_eq!(decoded[2].content, Content::Undecodable("Missing job_id".into()));
    assert_eq!(decoded[2].payload, "{}");
}

#[test]
fn what_is_no_bundle_is_one_undecodable_entry() {
    let mut without_header =
        message("callbacks.1.00", entry(None, r#"{"job_id":"a","status":"running"}"#));
    without_header.version = None;
    for message in
        [message("callbacks.1.00", "hello"), message("callbacks.1.00", ""), without_header]
    {
        let decoded = decode(&message, Layout::new(1, 1).first());
        assert_eq!(decoded.len(), 1);
        assert!(decoded[0].event().is_none());
        assert_eq!(decoded[0].payload, message.payload);
    }
}

#[test]
fn a_subject_decides_what_may_be_said_on_it() {
    let body = lost_body("a", Position { seq: 3, idx: 1 });
    assert_eq!(body, r#"{"job_id":"a","type":"lost","witness":[3,1]}"#);
    let lost = entry(None, &body);
    let on_internal = decode(&message("internal.1.00", lost.clone()), Layout::new(1, 1).first());
    assert_eq!(
        on_internal[0].event().unwrap().body,
        Body::Lost { job_id: "a".into(), witness: Position { seq: 3, idx: 1 } }
    );
    let on_callbacks = decode(&message("callbacks.1.00", lost.clone()), Layout::new(1, 1).first());
    assert!(on_callbacks[0].event().is_none());
    let status = entry(None, r#"{"job_id":"a","status":"running"}"#);
    assert!(
        decode(&message("internal.1.00", status), Layout::new(1, 1).first())[0].event().is_none()
    );

    let order = Order {
        action: Action::Discard,
        partition: 12,
        target: Position { seq: 3, idx: 1 },
        refusal: 2,
        reason: "too long".into(),
    };
    let body = entry(None, &order.to_body());
    let content = |subject| {
        decode(&message(subject, body.clone()), Layout::new(1, 1).first()).remove(0).content
    };
    assert_eq!(content("orders.1.00"), Content::Order(order));
    for subject in ["callbacks.1.00", "internal.1.00"] {
        assert!(matches!(content(subject), Content::Undecodable(_)), "{subject}");
    }
    let on_orders = decode(&message("orders.1.00", lost), Layout::new(1, 1).first());
    assert!(matches!(on_orders[0].content, Content::Undecodable(_)));
}

#[test]
fn the_mark_of_an_end_has_no_entries() {
    let mut end = message("closed.1.00", "");
    end.is_end = true;
    assert!(decode(&end, Layout::new(1, 1).first()).is_empty());
}

#[test]
fn what_ingress_knows_of_a_run_wins_over_the_body() {
    let run = Run {
        server: "https://github.com".into(),
        repository: "a/b".into(),
        id: "17".into(),
        attempt: 2,
    };
    let body = br#"{"job_id":"a","status":"running","workflow_run_id":"1","run_attempt":9}"#;
    let metadata = Metadata { run: Some(run.clone()), ..Metadata::new("a", "token", 0) };
    let message = message("callbacks.1.00", bundle::encode(&metadata, body));
    let once = decode(&message, Layout::new(1, 1).first()).remove(0);
    // A dead letter keeps it.
    let letter = bury(&once, 0, "why").dead_letters.remove(0);
    let again = decode_again(letter, Layout::new(1, 1).first(), once.position);
    for incoming in [once, again] {
        let Body::Callback(callback) = &incoming.event().unwrap().body else { panic!() };
        assert_eq!(callback.workflow_run_id.as_deref(), Some("17"));
        assert_eq!(callback.run_attempt, Some(2));
        assert_eq!(incoming.run.as_ref(), Some(&run));
    }
}

#[test]
fn a_webhook_of_github_is_for_a_newer_worker() {
    let metadata = Metadata { kind: bundle::Kind::Github, ..Metadata::new("a", "github", 0) };
    let message = message("callbacks.1.00", bundle::encode(&metadata, b"{}"));
    let content = decode(&message, Layout::new(1, 1).first()).remove(0).content;
    let why = "a newer version of the worker is needed";
    assert_eq!(content, Content::Undecodable(why.into()));
}

#[test]
fn nothing_that_a_database_would_refuse_is_decoded() {
    let status = r#"{"job_id":"a","status":"running"}"#;
    let long = "x".repeat(129);
    for event_id in ["", "\0", "a\0b", long.as_str()] {
        let message = message("callbacks.1.00", entry(Some(event_id), status));
        assert!(decode(&message, Layout::new(1, 1).first())[0].event().is_none(), "{event_id:?}");
    }
    for job_id in ["", "a\\u0000", "x".repeat(201).as_str()] {
        let lost = format!(r#"{{"type":"lost","job_id":"{job_id}","witness":[1,0]}}"#);
        let message = message("internal.1.00", entry(None, &lost));
        assert!(decode(&message, Layout::new(1, 1).first())[0].event().is_none(), "{job_id:?}");
    }
    let odd = format!(r#"{{"type":"{}\u0000"}}"#, "x".repeat(5000));
    let message = message("internal.1.00", entry(None, &odd));
    let content = decode(&message, Layout::new(1, 1).first()).remove(0).content;
    let Content::Undecodable(reason) = content else { panic!("it was decoded") };
    assert!(!reason.contains('\0') && reason.len() <= MAX_REASON_BYTES, "{reason}");
}

#[test]
fn a_job_of_another_partition_is_not_believed() {
    let status = entry(None, r#"{"job_id":"a","status":"running"}"#);
    let home = Layout::new(3, 16).of_job("a");
    for partition in home.layout().all() {
        let decoded = decode(&message(&partition.callbacks_subject(), status.clone()), partition);
        assert_eq!(decoded[0].event().is_some(), partition == home);
    }
}

#[test]
fn a_dead_letter_is_decoded_again_as_what_it_was() {
    let partition = Layout::new(1, 1).first();
    let silence = lost_body("a", Position { seq: 1, idx: 0 });
    for (subject, event_id, body) in [
        ("callbacks.1.00", Some("id"), r#"{"job_id":"a","status":"running"}"#),
        ("callbacks.1.00", None, r#"{"job_id":"a","status":"over"}"#),
        ("callbacks.1.00", None, &silence),
        ("internal.1.00", None, &silence),
        ("internal.1.00", None, r#"{"job_id":"a","status":"running"}"#),
    ] {
        let once = decode(&message(subject, entry(event_id, body)), partition).remove(0);
        let letter = bury(&once, 0, "why").dead_letters.remove(0);
        let order = Position { seq: 9, idx: 2 };
        // Its job belongs to another generation now.
        let again = decode_again(letter, Layout::new(2, 1).first(), order);
        assert_eq!((once.redriven, again.redriven), (None, Some(order)));
        assert_eq!((&again.speaker, again.partition), (&once.speaker, once.partition));
        assert_eq!(again.speaker.as_deref(), Some("callback"));
        assert_eq!(again.content, once.content, "{subject} {body}");
        assert_eq!((again.position, again.at), (once.position, once.at));
        assert_eq!((&again.subject, &again.payload), (&once.subject, &once.payload));
        assert_eq!((once.refusals, again.refusals), (0, 1));
    }
}

#[test]
fn a_message_id_is_kept_in_a_form_that_databases_accept() {
    assert_eq!(kept_msg_id("0af7651916cd43dd"), "0af7651916cd43dd");
    assert_eq!(kept_msg_id("a\0b"), "ab");
    assert_eq!(kept_msg_id(&format!("x{}", "ä".repeat(150))), format!("x{}", "ä".repeat(99)));
}
