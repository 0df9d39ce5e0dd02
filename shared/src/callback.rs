//! The callback: the JSON object a workflow sends, and the one parser that both sides use.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use chrono::{DateTime, TimeZone, Utc};
use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// The longest `job_id`, in bytes.
pub const MAX_JOB_ID_BYTES: usize = 200;
/// The longest `event_id`, in bytes.
pub const MAX_EVENT_ID_BYTES: usize = 128;
/// The longest `workflow_run_id`, `agent_id` and `region`, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// What is kept of `error`, in bytes.
pub const MAX_ERROR_BYTES: usize = 4096;
/// What is kept of `failed_step`, in bytes.
pub const MAX_FAILED_STEP_BYTES: usize = 200;
/// The longest `heartbeat_timeout_s`, in seconds: a day. The shortest is one second.
pub const MAX_HEARTBEAT_TIMEOUT_S: i32 = 24 * 60 * 60;

/// A status that a callback can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Reported by whoever creates the job, before a workflow runs.
    Queued,
    /// Reported when the workflow has begun.
    Provisioning,
    /// Reported when the machine is ready: the workflow's success.
    Running,
    /// Reported by the workflow's failure step.
    Failed,
}

impl Status {
    /// The status as it stands in a body.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "queued" => Some(Self::Queued),
            "provisioning" => Some(Self::Provisioning),
            "running" => Some(Self::Running),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What a callback says of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The job is alive; nothing else changed.
    Heartbeat,
    /// The job has this status now.
    Status(Status),
}

/// One well-formed callback. Texts hold no NUL and are within their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// 1–200 bytes without control characters.
    pub job_id: String,
    /// What is reported.
    pub kind: Kind,
    /// The run that speaks, as it was sent; usually GitHub's number.
    pub workflow_run_id: Option<String>,
    /// Which attempt of that run, from 1.
    pub run_attempt: Option<i32>,
    /// Why it failed, cut to 4 KiB.
    pub error: Option<String>,
    /// The step that failed, cut to 200 bytes.
    pub failed_step: Option<String>,
    /// Who provisions.
    pub agent_id: Option<String>,
    /// Where it is provisioned.
    pub region: Option<String>,
    /// For how many seconds the job may be silent before it is presumed failed, 1–86,400; without it
    /// the worker's own timeout holds.
    pub heartbeat_timeout_s: Option<i32>,
    /// The sender's idempotency key, 1–128 bytes.
    pub event_id: Option<String>,
    /// When the sender made the callback, by its own clock, in microseconds.
    pub sent_at: Option<DateTime<Utc>>,
}

/// Why a body is not a callback. `Display` is the `error` of the 400 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, not an object, or an object that names a key twice.
    #[error("Invalid JSON")]
    Json,
    /// `job_id` is absent, null or empty.
    #[error("Missing job_id")]
    MissingJobId,
    /// Neither a `status` nor a known `type`.
    #[error("Missing status or type")]
    MissingStatus,
    /// A field whose value breaks its limits; the field's name.
    #[error("Invalid {0}")]
    Field(&'static str),
}

/// The fields of a body whose JSON is sound, not yet checked for their meaning.
///
/// Two steps, because the replay window reads `sent_at` before anything else is judged.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    job_id: Scalar<'a>,
    kind: Scalar<'a>,
    status: Scalar<'a>,
    workflow_run_id: Scalar<'a>,
    run_attempt: Scalar<'a>,
    error: Scalar<'a>,
    failed_step: Scalar<'a>,
    agent_id: Scalar<'a>,
    region: Scalar<'a>,
    heartbeat_timeout_s: Scalar<'a>,
    event_id: Scalar<'a>,
    sent_at: Scalar<'a>,
}

/// Parses a body completely.
///
/// # Errors
/// The first reason, in the order of [`Malformed`], why it is not a callback.
pub fn parse(body: &[u8]) -> Result<Callback, Malformed> {
    Fields::parse(body)?.into_callback()
}

impl<'a> Fields<'a> {
    /// Reads the JSON object.
    ///
    /// # Errors
    /// [`Malformed::Json`].
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(body).map_err(|_| Malformed::Json)
    }

    /// The `sent_at` of the body: an RFC 3339 text or Unix seconds.
    ///
    /// # Errors
    /// [`Malformed::Field`] when there is one that is no time.
    pub fn sent_at(&self) -> Result<Option<DateTime<Utc>>, Malformed> {
        let invalid = Malformed::Field("sent_at");
        let time = match &self.sent_at {
            Scalar::Absent => return Ok(None),
            Scalar::Integer(seconds) => i64::try_from(*seconds)
                .ok()
                .and_then(|seconds| Utc.timestamp_opt(seconds, 0).single()),
            Scalar::Float(seconds) => from_float_seconds(*seconds),
            // Also makes a leap second, which rows can't hold, the next one.
            Scalar::Text(text) => DateTime::parse_from_rfc3339(text)
                .ok()
                .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros())),
            Scalar::Other => None,
        };
        // Four-digit years are what RFC 3339 and both databases can hold.
        let year_is_sane =
            |time: &DateTime<Utc>| (1970..=9999).contains(&chrono::Datelike::year(time));
        time.filter(year_is_sane).map(Some).ok_or(invalid)
    }

    /// Checks every field and makes the callback.
    ///
    /// # Errors
    /// What is missing is named before what is invalid, as the HTTP contract orders it.
    pub fn into_callback(self) -> Result<Callback, Malformed> {
        if matches!(&self.job_id, Scalar::Absent) || self.job_id.is_text("") {
            return Err(Malformed::MissingJobId);
        }
        let heartbeat = self.kind.is_text("heartbeat");
        if !heartbeat && matches!(self.status, Scalar::Absent) {
            return Err(Malformed::MissingStatus);
        }

        let sent_at = self.sent_at()?;
        let job_id = match self.job_id {
            Scalar::Text(text)
                if text.len() <= MAX_JOB_ID_BYTES && !text.chars().any(char::is_control) =>
            {
                text.into_owned()
            }
            _ => return Err(Malformed::Field("job_id")),
        };
        let kind = if heartbeat {
            Kind::Heartbeat
        } else {
            match &self.status {
                Scalar::Text(text) => Status::parse(text).map(Kind::Status),
                _ => None,
            }
            .ok_or(Malformed::Field("status"))?
        };
        let workflow_run_id = match self.workflow_run_id {
            Scalar::Integer(id) => Some(id.to_string()),
            other => other.name("workflow_run_id", MAX_NAME_BYTES)?,
        };
        let run_attempt = self.run_attempt.count("run_attempt", i32::MAX)?;
        let heartbeat_timeout_s =
            self.heartbeat_timeout_s.count("heartbeat_timeout_s", MAX_HEARTBEAT_TIMEOUT_S)?;
        let event_id = self.event_id.name("event_id", MAX_EVENT_ID_BYTES)?;
        if event_id.as_deref() == Some("") {
            return Err(Malformed::Field("event_id"));
        }
        Ok(Callback {
            job_id,
            kind,
            workflow_run_id,
            run_attempt,
            error: self.error.cut("error", MAX_ERROR_BYTES)?,
            failed_step: self.failed_step.cut("failed_step", MAX_FAILED_STEP_BYTES)?,
            agent_id: self.agent_id.name("agent_id", MAX_NAME_BYTES)?,
            region: self.region.name("region", MAX_NAME_BYTES)?,
            heartbeat_timeout_s,
            event_id,
            sent_at,
        })
    }
}

fn from_float_seconds(seconds: f64) -> Option<DateTime<Utc>> {
    let micros = seconds * 1e6;
    // Beyond 2^53 a float no longer holds whole microseconds; the year check refuses it anyway.
    (micros.is_finite() && micros.abs() < 9e17)
        .then(|| DateTime::from_timestamp_micros(micros as i64))
        .flatten()
}

/// One value of the object, as far as the parser cares. `null` counts as absent.
#[derive(Debug, Default)]
enum Scalar<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(i128),
    Float(f64),
    Other,
}

impl Scalar<'_> {
    fn is_text(&self, expected: &str) -> bool {
        matches!(self, Scalar::Text(text) if text == expected)
    }

    /// A whole number from 1.
    fn count(self, field: &'static str, max: i32) -> Result<Option<i32>, Malformed> {
        match self {
            Scalar::Absent => Ok(None),
            Scalar::Integer(count) => i32::try_from(count)
                .ok()
                .filter(|count| (1..=max).contains(count))
                .map(Some)
                .ok_or(Malformed::Field(field)),
            _ => Err(Malformed::Field(field)),
        }
    }

    /// A text that is refused when it is too long.
    fn name(self, field: &'static str, max_bytes: usize) -> Result<Option<String>, Malformed> {
        match self {
            Scalar::Absent => Ok(None),
            Scalar::Text(text) => {
                let text = without_nul(text);
                if text.len() > max_bytes {
                    return Err(Malformed::Field(field));
                }
                Ok(Some(text))
            }
            _ => Err(Malformed::Field(field)),
        }
    }

    /// A text that is cut at a character when it is too long.
    fn cut(self, field: &'static str, max_bytes: usize) -> Result<Option<String>, Malformed> {
        match self {
            Scalar::Absent => Ok(None),
            Scalar::Text(text) => {
                let mut text = without_nul(text);
                text.truncate(text.floor_char_boundary(max_bytes));
                Ok(Some(text))
            }
            _ => Err(Malformed::Field(field)),
        }
    }
}

/// PostgreSQL refuses NUL in texts, and dropping it loses nothing that a person could read.
fn without_nul(text: Cow<'_, str>) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text.into_owned() }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                read_unique(map, |key, value| {
                    let slot = match key {
                        "job_id" => &mut fields.job_id,
                        "type" => &mut fields.kind,
                        "status" => &mut fields.status,
                        "workflow_run_id" => &mut fields.workflow_run_id,
                        "run_attempt" => &mut fields.run_attempt,
                        "error" => &mut fields.error,
                        "failed_step" => &mut fields.failed_step,
                        "agent_id" => &mut fields.agent_id,
                        "region" => &mut fields.region,
                        "heartbeat_timeout_s" => &mut fields.heartbeat_timeout_s,
                        "event_id" => &mut fields.event_id,
                        "sent_at" => &mut fields.sent_at,
                        _ => return,
                    };
                    *slot = value;
                })?;
                Ok(fields)
            }
        }

        // A derived struct would also accept an array; `deserialize_map` with this visitor does not.
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Reads an object's members and refuses a key that comes twice, which different readers of the
/// same signed bytes could understand differently.
fn read_unique<'de, A: MapAccess<'de>>(
    mut map: A,
    mut member: impl FnMut(&str, Scalar<'de>),
) -> Result<(), A::Error> {
    let mut seen = HashSet::new();
    while let Some(key) = map.next_key_seed(Text)? {
        let value = map.next_value()?;
        member(&key, value);
        if !seen.insert(key) {
            return Err(de::Error::custom("duplicate key"));
        }
    }
    Ok(())
}

/// A text that borrows from the body where nothing in it is escaped.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<Scalar<'de>>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                read_unique(map, |_, _| ())?;
                Ok(Scalar::Other)
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
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
            (r#"{"job_id":"a","status":"running","run_attempt":"1"}"#, "Invalid run_attempt"),
            (r#"{"job_id":"a","status":"running","run_attempt":1.5}"#, "Invalid run_attempt"),
            (
                r#"{"job_id":"a","status":"running","run_attempt":3000000000}"#,
                "Invalid run_attempt",
            ),
            (
                r#"{"job_id":"a","status":"running","workflow_run_id":1.5}"#,
                "Invalid workflow_run_id",
            ),
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
            (r#"{"job_id":"a","status":"running","sent_at":99999999999999}"#, "Invalid sent_at"),
            (r#"{"job_id":"a","status":"running","sent_at":[]}"#, "Invalid sent_at"),
        ] {
            assert_eq!(error(body), expected, "{body}");
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
}
