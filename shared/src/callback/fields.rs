//! The parser of callbacks, which ingress and worker share.

use std::fmt;

use chrono::{DateTime, TimeZone, Utc};
use serde::de::{self, Deserialize, MapAccess, Visitor};

use super::contract::{
    Callback, Kind, MAX_ERROR_BYTES, MAX_EVENT_ID_BYTES, MAX_FAILED_STEP_BYTES,
    MAX_HEARTBEAT_TIMEOUT_S, MAX_JOB_ID_BYTES, MAX_NAME_BYTES, Malformed, Status,
};
use super::scalar::{Scalar, read_unique};

/// The fields of a body whose JSON is sound, not yet checked for their meaning.
///
/// Parsing has two steps, because the replay window needs `sent_at` before the other fields are
/// checked.
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
/// The first [`Malformed`], in its order: answer 400 with its text.
pub fn parse(body: &[u8]) -> Result<Callback, Malformed> {
    Fields::parse(body)?.into_callback()
}

impl<'a> Fields<'a> {
    /// Reads the JSON object.
    ///
    /// # Errors
    /// [`Malformed::Json`]: answer 400 with its text.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(body).map_err(|_| Malformed::Json)
    }

    /// The `sent_at` of the body: an RFC 3339 text or Unix seconds.
    ///
    /// # Errors
    /// [`Malformed::Field`], if it is not a time.
    pub fn sent_at(&self) -> Result<Option<DateTime<Utc>>, Malformed> {
        let invalid = Malformed::Field("sent_at");
        let time = match &self.sent_at {
            Scalar::Absent => return Ok(None),
            Scalar::Integer(seconds) => i64::try_from(*seconds)
                .ok()
                .and_then(|seconds| Utc.timestamp_opt(seconds, 0).single()),
            // A number that no integer holds becomes the nearest one, whose year is refused below.
            Scalar::Float(seconds) => DateTime::from_timestamp_micros((seconds * 1e6) as i64),
            // This also turns a leap second, which the tables cannot hold, into the next second.
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
