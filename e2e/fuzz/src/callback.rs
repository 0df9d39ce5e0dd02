//! The parser of callbacks, beside a second reading of the same JSON.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::callback::{Callback, Fields, Kind, Malformed, Status, parse};

use crate::with_peak;

/// Parses a body that may be anything.
///
/// # Panics
/// When the parser breaks a limit, needs too much memory, or reads something else than the second
/// reading does.
pub fn check(body: &[u8]) {
    let (parsed, peak) = with_peak(|| parse(body));
    // Most of it is the set of the keys of one object.
    assert!(peak <= 20 * body.len() as u64 + 1024, "{peak} bytes to parse {}", body.len());
    match (Fields::parse(body), &parsed) {
        (Err(error), _) => assert_eq!(parsed.as_ref().err(), Some(&error)),
        (Ok(fields), Ok(callback)) => assert_eq!(fields.sent_at(), Ok(callback.sent_at)),
        (Ok(_), Err(error)) => assert_ne!(*error, Malformed::Json),
    }
    if let Ok(callback) = &parsed {
        assert_within_limits(callback);
    }
    assert_eq!(parsed.map_err(|error| error.to_string()), read_again(body));
}

fn assert_within_limits(callback: &Callback) {
    let Callback { job_id, workflow_run_id, run_attempt, sent_at, .. } = callback;
    assert!((1..=200).contains(&job_id.len()), "{job_id:?}");
    assert!(!job_id.contains(char::is_control), "{job_id:?}");
    for (text, max) in [
        (workflow_run_id, 200),
        (&callback.error, 4096),
        (&callback.failed_step, 200),
        (&callback.agent_id, 200),
        (&callback.region, 200),
        (&callback.event_id, 128),
    ] {
        let text = text.as_deref().unwrap_or_default();
        assert!(text.len() <= max && !text.contains('\0'), "{text:?}");
    }
    assert_ne!(callback.event_id.as_deref(), Some(""));
    assert!(run_attempt.is_none_or(|attempt| attempt >= 1));
    assert!(callback.heartbeat_timeout_s.is_none_or(|timeout| (1..=86_400).contains(&timeout)));
    // Rows hold microseconds, and nothing else may be compared with what comes back from them.
    let stored = sent_at.map(|time| DateTime::from_timestamp_micros(time.timestamp_micros()));
    assert_eq!(stored.flatten(), *sent_at);
}

/// The contract of docs/CALLBACKS.md, read from a tree of JSON values.
fn read_again(body: &[u8]) -> Result<Callback, String> {
    let value: Value = serde_json::from_slice(body).map_err(|_| "Invalid JSON")?;
    let written: Written = serde_json::from_slice(body).map_err(|_| "Invalid JSON")?;
    // The tree keeps one member of those that have the same key.
    if written.members() != members(&value) {
        return Err("Invalid JSON".into());
    }
    let Value::Object(object) = value else { return Err("Invalid JSON".into()) };

    let text = |name| field(&object, name).and_then(Value::as_str);
    if field(&object, "job_id").is_none() || text("job_id") == Some("") {
        return Err("Missing job_id".into());
    }
    let is_heartbeat = text("type") == Some("heartbeat");
    if !is_heartbeat && field(&object, "status").is_none() {
        return Err("Missing status or type".into());
    }
    let sent_at = checked(&object, "sent_at", time)?;
    let job_id = checked(&object, "job_id", |value| {
        value.as_str().filter(|id| id.len() <= 200 && !id.contains(char::is_control))
    })?;
    let status = |value: &Value| {
        [Status::Queued, Status::Provisioning, Status::Running, Status::Failed]
            .into_iter()
            .find(|status| value.as_str() == Some(status.as_str()))
    };
    let kind = if is_heartbeat {
        Some(Kind::Heartbeat)
    } else {
        checked(&object, "status", status)?.map(Kind::Status)
    };
    let name = |max: usize| {
        move |value: &Value| {
            let text: String = value.as_str()?.split('\0').collect();
            (text.len() <= max).then_some(text)
        }
    };
    let run_id = |value: &Value| match value {
        Value::Number(id) if id.is_i64() || id.is_u64() => Some(id.to_string()),
        other => name(200)(other),
    };
    let attempt = |value: &Value| i32::try_from(value.as_i64()?).ok().filter(|n| *n > 0);
    let timeout = |value: &Value| attempt(value).filter(|n| *n <= 86_400);
    Ok(Callback {
        job_id: job_id.unwrap_or_default().to_owned(),
        kind: kind.ok_or("Invalid status")?,
        workflow_run_id: checked(&object, "workflow_run_id", run_id)?,
        run_attempt: checked(&object, "run_attempt", attempt)?,
        heartbeat_timeout_s: checked(&object, "heartbeat_timeout_s", timeout)?,
        event_id: checked(&object, "event_id", |id| name(128)(id).filter(|id| !id.is_empty()))?,
        error: checked(&object, "error", cut(4096))?,
        failed_step: checked(&object, "failed_step", cut(200))?,
        agent_id: checked(&object, "agent_id", name(200))?,
        region: checked(&object, "region", name(200))?,
        sent_at,
    })
}

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn checked<'a, T>(
    object: &'a Map<String, Value>,
    name: &str,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = field(object, name) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| format!("Invalid {name}"))
}

fn cut(max: usize) -> impl Fn(&Value) -> Option<String> {
    move |value| {
        let mut kept = String::new();
        for character in value.as_str()?.chars().filter(|character| *character != '\0') {
            if kept.len() + character.len_utf8() > max {
                break;
            }
            kept.push(character);
        }
        Some(kept)
    }
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    const YEAR_10000_S: i64 = 253_402_300_800;
    let micros = match value {
        Value::Number(number) => match number.as_i64() {
            Some(seconds) => seconds.checked_mul(1_000_000)?,
            None => (number.as_f64()? * 1e6) as i64,
        },
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros(),
        _ => return None,
    };
    let is_sane = (0..YEAR_10000_S * 1_000_000).contains(&micros);
    is_sane.then(|| DateTime::from_timestamp_micros(micros)).flatten()
}

/// How many members all the objects of a tree have.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(members).sum(),
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        _ => 0,
    }
}

/// The same, as they are written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Object(#[serde(deserialize_with = "in_object")] usize),
    Array(Vec<Self>),
    Other(IgnoredAny),
}

impl Written {
    fn members(&self) -> usize {
        match self {
            Self::Object(members) => *members,
            Self::Array(items) => items.iter().map(Self::members).sum(),
            Self::Other(IgnoredAny) => 0,
        }
    }
}

fn in_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    deserializer.deserialize_map(Members)
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut members = 0;
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Written>()? {
            members += 1 + value.members();
        }
        Ok(members)
    }
}
