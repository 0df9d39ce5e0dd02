//! The wire format of the stream: a message is a bundle of callbacks.
//!
//! For each callback a line of JSON metadata, then the verbatim signed body, then a newline. The
//! format is readable with any NATS tool (`nats stream view CALLBACKS-1-00`). The message
//! that ends a closed stream ([`END_HEADER`]) holds no callbacks.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::trace::{self, TraceContext};

/// The header that names the format, and its value.
pub const VERSION_HEADER: (&str, &str) = ("Ackline-Bundle", "2");
/// The header of the message behind which a closed stream holds no callback, and its value. That
/// message is no bundle: it moves the checkpoint and has no other effect.
pub const END_HEADER: (&str, &str) = ("Ackline-Mark", "end");
/// The most callbacks in a bundle.
pub const MAX_CALLBACKS: usize = 256;
/// The largest bundle, in bytes of payload.
pub const MAX_BYTES: usize = 512 * 1024;
/// The most that metadata may add to a body, in bytes. Its texts are bounded, and JSON escapes a
/// byte into at most six.
pub const MAX_METADATA_BYTES: usize = 4096;
/// The longest name of a speaker, in bytes.
pub const MAX_SPEAKER_BYTES: usize = 500;
/// What the server counts of a message besides its payload, in bytes.
pub const MAX_HEADER_BYTES: usize = 512;

/// What a body is, as ingress found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A workflow's callback, or what an owner or an operator says.
    Callback,
    /// GitHub's own webhook about a run.
    Github,
}

/// A workflow run as ingress knows it for certain; where it does, this wins over the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The server's URL, at most 200 bytes: `https://github.com`.
    pub server: String,
    /// `OWNER/NAME`, at most 200 bytes.
    pub repository: String,
    /// The run's id, at most 200 bytes.
    pub id: String,
    /// Its attempt, from 1.
    pub attempt: i32,
}

/// What is known of a callback besides its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// What the body is.
    pub kind: Kind,
    /// The job, for people who read the stream; workers parse the body.
    pub job: String,
    /// Who speaks: the id of the key that signed the callback; of what is not a callback, its
    /// author.
    pub speaker: String,
    /// When ingress had received the body, in Unix milliseconds.
    pub received_ms: i64,
    /// The sender's idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The run that speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The W3C trace context that the callback continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceContext>,
}

impl Metadata {
    /// The metadata that every callback has, without the optional rest.
    #[must_use]
    pub fn new(job: impl Into<String>, speaker: impl Into<String>, received_ms: i64) -> Self {
        let (kind, job, speaker) = (Kind::Callback, job.into(), speaker.into());
        Self { kind, job, speaker, received_ms, event_id: None, run: None, traceparent: None }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    metadata: &'a Metadata,
    len: usize,
}

/// A line as it is parsed. It is flat, because serde's `flatten` first buffers everything else in
/// the line, at many times its size.
#[derive(Deserialize)]
struct FlatLine {
    kind: Kind,
    job: String,
    speaker: String,
    received_ms: i64,
    event_id: Option<String>,
    run: Option<Run>,
    #[serde(default, deserialize_with = "trace::lenient")]
    traceparent: Option<TraceContext>,
    len: usize,
}

/// A callback in a bundle: its metadata and its verbatim body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What ingress wrote down.
    pub metadata: Metadata,
    /// The signed body.
    pub body: Bytes,
}

/// Why a payload is not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotABundle {
    /// It holds no callback.
    #[error("the bundle is empty")]
    Empty,
    /// A metadata line is missing or is not the expected JSON.
    #[error("the metadata of callback {0} is malformed")]
    Metadata(usize),
    /// The payload ends inside a body, or no newline follows it.
    #[error("the body of callback {0} does not have the length that its metadata says")]
    Length(usize),
    /// It holds more callbacks than any bundle may.
    #[error("the bundle holds more than {MAX_CALLBACKS} callbacks")]
    TooMany,
}

/// Encodes one callback for a bundle.
#[must_use]
pub fn encode(metadata: &Metadata, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 256).writer();
    // Strings and numbers always serialize, and writing to memory does not fail.
    let line = serde_json::to_writer(&mut out, &Line { metadata, len: body.len() });
    debug_assert!(line.is_ok());
    let mut out = out.into_inner();
    out.put_u8(b'\n');
    out.put_slice(body);
    out.put_u8(b'\n');
    out.freeze()
}

/// Decodes a message's payload, sharing its memory.
///
/// # Errors
/// [`NotABundle`]: keep the whole payload as a dead letter. If any part is damaged, nothing of it
/// is used.
pub fn decode(payload: &Bytes) -> Result<Vec<Entry>, NotABundle> {
    let mut entries = Vec::new();
    let mut rest = payload.clone();
    while !rest.is_empty() {
        let index = entries.len();
        if index == MAX_CALLBACKS {
            return Err(NotABundle::TooMany);
        }
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(NotABundle::Metadata(index))?;
        let head = rest.split_to(end + 1);
        // A JSON array would also deserialize into the struct, field by field.
        if head.first() != Some(&b'{') {
            return Err(NotABundle::Metadata(index));
        }
        let FlatLine { kind, job, speaker, received_ms, event_id, run, traceparent, len } =
            serde_json::from_slice(&head).map_err(|_| NotABundle::Metadata(index))?;
        if rest.get(len) != Some(&b'\n') {
            return Err(NotABundle::Length(index));
        }
        let body = rest.split_to(len);
        let _newline = rest.split_to(1);
        let metadata = Metadata { kind, job, speaker, received_ms, event_id, run, traceparent };
        entries.push(Entry { metadata, body });
    }
    if entries.is_empty() { Err(NotABundle::Empty) } else { Ok(entries) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(job: &str, body: &[u8]) -> Entry {
        Entry {
            metadata: Metadata {
                event_id: (job == "a").then(|| "e-1".into()),
                ..Metadata::new(job, "default", 1_700_000_000_123)
            },
            body: Bytes::copy_from_slice(body),
        }
    }

    fn payload(entries: &[Entry]) -> Bytes {
        entries
            .iter()
            .map(|entry| encode(&entry.metadata, &entry.body))
            .collect::<Vec<_>>()
            .concat()
            .into()
    }

    #[test]
    fn the_format_is_pinned() {
        assert_eq!((MAX_CALLBACKS, MAX_BYTES), (256, 524_288));
        let mut of_github = entry("b", b"");
        of_github.metadata.kind = Kind::Github;
        of_github.metadata.run = Some(Run {
            server: "https://github.com".into(),
            repository: "a/b".into(),
            id: "17".into(),
            attempt: 2,
        });
        assert_eq!(
            payload(&[entry("a", b"{\"x\":1}"), of_github]),
            Bytes::from_static(
                b"{\"kind\":\"callback\",\"job\":\"a\",\"speaker\":\"default\",\"received_ms\":1700000000123,\
                  \"event_id\":\"e-1\",\"len\":7}\n\
                  {\"x\":1}\n\
                  {\"kind\":\"github\",\"job\":\"b\",\"speaker\":\"default\",\"received_ms\":1700000000123,\
                  \"run\":{\"server\":\"https://github.com\",\"repository\":\"a/b\",\"id\":\"17\",\"attempt\":2},\
                  \"len\":0}\n\n"
            )
        );
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let entries =
            vec![entry("a", b"line\nline\n\n"), entry("b\n", b""), entry("c", &[0, 255, 10])];
        assert_eq!(decode(&payload(&entries)).unwrap(), entries);
    }

    #[test]
    fn damage_anywhere_refuses_the_whole_bundle() {
        let good = payload(&[entry("a", b"12345"), entry("b", b"67890")]);
        for end in 1..good.len() {
            let whole_first = end == payload(&[entry("a", b"12345")]).len();
            assert_eq!(decode(&good.slice(..end)).is_ok(), whole_first, "cut at {end}");
        }
        assert_eq!(decode(&Bytes::new()), Err(NotABundle::Empty));
        assert_eq!(decode(&Bytes::from_static(b"hello")), Err(NotABundle::Metadata(0)));
        assert_eq!(
            decode(&Bytes::from_static(b"[\"callback\",\"a\",\"k\",1,null,null,null,0]\n\n")),
            Err(NotABundle::Metadata(0))
        );
        let far = br#"{"kind":"callback","job":"a","speaker":"k","received_ms":1,"len":18446744073709551615}"#;
        assert_eq!(decode(&[far.as_slice(), b"\n\n"].concat().into()), Err(NotABundle::Length(0)));
        let many = vec![entry("a", b"{}"); MAX_CALLBACKS + 1];
        assert_eq!(decode(&payload(&many)), Err(NotABundle::TooMany));
    }

    #[test]
    fn a_trace_context_travels_and_an_unsound_one_refuses_nothing() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traceparent = TraceContext::parse(text);
        let mut traced = entry("a", b"{}");
        traced.metadata.traceparent = traceparent;
        let sound = payload(&[traced.clone()]);
        let line = format!("\"traceparent\":\"{text}\"");
        assert!(String::from_utf8_lossy(&sound).contains(&line));
        assert_eq!(decode(&sound).unwrap(), [traced]);
        for unsound in ["\"\"", "\"00-0-0-00\"", "null", "7", "[{}]", "{\"a\":[]}"] {
            let payload = String::from_utf8_lossy(&sound)
                .replace(&line, &format!("\"traceparent\":{unsound}"));
            let decoded = decode(&payload.into_bytes().into()).unwrap();
            assert_eq!(decoded, [entry("a", b"{}")], "{unsound}");
        }
    }

    #[test]
    fn metadata_stays_within_its_bound() {
        let name = || "\"".repeat(crate::callback::MAX_NAME_BYTES);
        let worst = Metadata {
            kind: Kind::Callback,
            job: "\"".repeat(crate::callback::MAX_JOB_ID_BYTES),
            speaker: "k".repeat(MAX_SPEAKER_BYTES),
            received_ms: i64::MIN,
            event_id: Some("\u{1}".repeat(crate::callback::MAX_EVENT_ID_BYTES)),
            run: Some(Run { server: name(), repository: name(), id: name(), attempt: i32::MIN }),
            traceparent: TraceContext::new([255; 16], [255; 8], 255),
        };
        assert!(encode(&worst, b"").len() <= MAX_METADATA_BYTES);
    }
}
