use chrono::DateTime;

use super::*;

fn error(body: &str) -> String {
    parse(body.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_whole_callback_is_read() {
    let callback = parse(
        br#"{"job_id":"j\"1","status":"failed","workflow_run_id":123,"run_attempt":2,"error":"no \u0000quota",
            "failed_step":"apply","agent_id":"a","region":"eu","event_id":"e1","sent_at":1700000000,
            "heartbeat_timeout_s":7200,
            "extra":{"a":[1,{"b":null}]}}"#,
    )
    .unwrap();
    assert_eq!(
        callback,
        Callback {
            job_id: "j\"1".into(),
            kind: Kind::Status(Status::Failed),
            workflow_run_id: Some("123".into()),
            run_attempt: Some(2),
            error: Some("no quota".into()),
            failed_step: Some("apply".into()),
            agent_id: Some("a".into()),
            region: Some("eu".into()),
            heartbeat_timeout_s: Some(7200),
            event_id: Some("e1".into()),
            sent_at: DateTime::from_timestamp(1_700_000_000, 0),
        }
    );
}

#[test]
fn what_is_not_an_object_is_invalid_json() {
    for body in [
        "",
        "{",
        "nul",
        "null",
        "1",
        "\"x\"",
        "[]",
        r#"["j","heartbeat"]"#,
        "{} {}",
        r#"{"job_id":"a","status":"running"}x"#,
        "{\"job_id\":\"\u{1}\"}",
        r#"{"job_id":"a","job_id":"b","status":"running"}"#,
        r#"{"job_id":"a","status":"running","x":1,"x":1}"#,
        r#"{"job_id":"a","status":"running","x":{"y":1,"\u0079":2}}"#,
        r#"{"job_id":"\ud800","status":"running"}"#,
    ] {
        assert_eq!(error(body), "Invalid JSON", "{body}");
    }
    assert_eq!(parse(b"{\"job_id\":\"\xff\"}"), Err(Malformed::Json));
    let deep = format!(
        r#"{{"job_id":"a","status":"running","x":{}1{}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    assert_eq!(error(&deep), "Invalid JSON");
}

#[test]
fn what_is_missing_is_named_before_what_is_invalid() {
    for (body, expected) in [
        ("{}", "Missing job_id"),
        (r#"{"job_id":null,"status":5}"#, "Missing job_id"),
        (r#"{"job_id":"","type":"heartbeat"}"#, "Missing job_id"),
        (r#"{"job_id":"a"}"#, "Missing status or type"),
        (r#"{"job_id":5}"#, "Missing status or type"),
        (r#"{"job_id":"a","type":"pulse"}"#, "Missing status or type"),
        (r#"{"job_id":"a","type":1,"status":null}"#, "Missing status or type"),
        (r#"{"job_id":5,"status":"running"}"#, "Invalid job_id"),
        (r#"{"job_id":"a\u0007","status":"running"}"#, "Invalid job_id"),
        (r#"{"job_id":"a\u0000","status":"running"}"#, "Invalid job_id"),
        (r#"{"job_id":"a","status":"done"}"#, "Invalid status"),
        (r#"{"job_id":"a","status":["running"]}"#, "Invalid status"),
        (r#"{"job_id":"a","status":"running","run_attempt":0}"#, "Invalid run_attempt"),
        (r#"{"job_id":"a","status":"running","run_attempt":-1}"#, "Invalid run_attempt"),
        (r#"{"job_id":"a","status":"running","run_attempt":"1"}"#, "Invalid run_attempt"),
        (r#"{"job_id":"a","status":"running","run_attempt":1.5}"#, "Invalid run_attempt"),
        (r#"{"job_id":"a","status":"running","run_attempt":3000000000}"#, "Invalid run_attempt"),
        (r#"{"job_id":"a","status":"running","workflow_run_id":1.5}"#, "Invalid workflow_run_id"),
        (r#"{"job_id":"a","status":"running","error":5}"#, "Invalid error"),
        (r#"{"job_id":"a","status":"running","failed_step":{}}"#, "Invalid failed_step"),
        (r#"{"job_id":"a","status":"running","agent_id":[]}"#, "Invalid agent_id"),
        (r#"{"job_id":"a","status":"running","region":true}"#, "Invalid region"),
        (
            r#"{"job_id":"a","type":"heartbeat","heartbeat_timeout_s":0}"#,
            "Invalid heartbeat_timeout_s",
        ),
        (
            r#"{"job_id":"a","type":"heartbeat","heartbeat_timeout_s":86401}"#,
            "Invalid heartbeat_timeout_s",
        ),
        (
            r#"{"job_id":"a","type":"heartbeat","heartbeat_timeout_s":"60"}"#,
            "Invalid heartbeat_timeout_s",
        ),
        (r#"{"job_id":"a","status":"running","event_id":""}"#, "Invalid event_id"),
        (r#"{"job_id":"a","status":"running","event_id":"\u0000"}"#, "Invalid event_id"),
        (r#"{"job_id":"a","status":"running","sent_at":"yesterday"}"#, "Invalid sent_at"),
        (r#"{"job_id":"a","status":"running","sent_at":1e300}"#, "Invalid sent_at"),
        (r#"{"job_id":"a","status":"running","sent_at":-1e300}"#, "Invalid sent_at"),
        (r#"{"job_id":"a","status":"running","sent_at":-0.5}"#, "Invalid sent_at"),
        (r#"{"job_id":"a","status":"running","sent_at":99999999999999}"#, "Invalid sent_at"),
        (r#"{"job_id":"a","status":"running","sent_at":[]}"#, "Invalid sent_at"),
    ] {
        assert_eq!(error(body), expected, "{body}");
    }
}

#[test]
fn a_status_is_read_by_its_name() {
    for (name, status) in [
        ("queued", Status::Queued),
        ("provisioning", Status::Provisioning),
        ("running", Status::Running),
        ("failed", Status::Failed),
    ] {
        let body = format!(r#"{{"job_id":"a","status":"{name}"}}"#);
        assert_eq!(parse(body.as_bytes()).unwrap().kind, Kind::Status(status));
        assert_eq!(status.as_str(), name);
    }
}

#[test]
fn a_heartbeat_wins_over_any_status() {
    for body in [
        r#"{"job_id":"a","type":"heartbeat"}"#,
        r#"{"job_id":"a","type":"heartbeat","status":"running"}"#,
        r#"{"job_id":"a","type":"heartbeat","status":7}"#,
    ] {
        assert_eq!(parse(body.as_bytes()).unwrap().kind, Kind::Heartbeat, "{body}");
    }
    let other_type = parse(br#"{"job_id":"a","type":"pulse","status":"running"}"#).unwrap();
    assert_eq!(other_type.kind, Kind::Status(Status::Running));
}

#[test]
fn names_are_refused_and_texts_are_cut_at_their_limits() {
    let body = |field: &str, text: &str| {
        let mut object = serde_json::json!({"job_id": "a", "status": "failed"});
        object[field] = text.into();
        parse(object.to_string().as_bytes())
    };
    for (field, max) in [
        ("job_id", MAX_JOB_ID_BYTES),
        ("event_id", MAX_EVENT_ID_BYTES),
        ("workflow_run_id", MAX_NAME_BYTES),
        ("agent_id", MAX_NAME_BYTES),
        ("region", MAX_NAME_BYTES),
    ] {
        assert!(body(field, &"x".repeat(max)).is_ok(), "{field}");
        let refused = body(field, &"x".repeat(max + 1)).unwrap_err();
        assert_eq!(refused.to_string(), format!("Invalid {field}"));
    }
    // "ü" is two bytes: an odd limit falls inside a character.
    let long = format!("a{}", "ü".repeat(MAX_ERROR_BYTES));
    let cut = body("error", &long).unwrap().error.unwrap();
    assert_eq!(cut.len(), MAX_ERROR_BYTES - 1);
    assert!(long.starts_with(&cut));
    let step = body("failed_step", &"s".repeat(500)).unwrap().failed_step.unwrap();
    assert_eq!(step.len(), MAX_FAILED_STEP_BYTES);
}

#[test]
fn sent_at_is_a_time_in_either_form() {
    let sent_at = |value: &str| {
        let body = format!(r#"{{"job_id":"a","type":"heartbeat","sent_at":{value}}}"#);
        let time = parse(body.as_bytes()).unwrap().sent_at.unwrap();
        let micros = time.timestamp_micros();
        assert_eq!(DateTime::from_timestamp_micros(micros), Some(time), "rows can hold it");
        micros
    };
    assert_eq!(sent_at("1700000000"), 1_700_000_000_000_000);
    assert_eq!(sent_at("1700000000.25"), 1_700_000_000_250_000);
    assert_eq!(sent_at(r#""2023-11-14T22:13:20Z""#), 1_700_000_000_000_000);
    assert_eq!(sent_at(r#""2023-11-14T23:13:20.1234567+01:00""#), 1_700_000_000_123_456);
    assert_eq!(sent_at(r#""2023-11-14T22:12:60.5Z""#), 1_699_999_980_500_000);
}
