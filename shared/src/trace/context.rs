//! A W3C trace context: the trace, and the parent span.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The value of a `traceparent` of version 00, in 25 bytes. Neither of its ids is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// Makes a context; none if one of the ids is zero, which stands for no id.
    #[must_use]
    pub fn new(trace: [u8; 16], span: [u8; 8], flags: u8) -> Option<Self> {
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`, all lowercase. Anything else is none: its sender is
    /// not traced, and nothing else happens.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text: &[u8; 55] = text.as_bytes().try_into().ok()?;
        let dashes = [text[2], text[35], text[52]] == [b'-'; 3];
        if text[..2] != *b"00" || !dashes || text.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let [flags] = bytes(&text[53..])?;
        Self::new(bytes(&text[3..35])?, bytes(&text[36..52])?, flags)
    }

    /// The trace; displayed as 32 lowercase hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        TraceId::from_bytes(self.trace)
    }
}

/// Reads digits, two a byte.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// As in a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

impl From<&TraceContext> for SpanContext {
    fn from(context: &TraceContext) -> Self {
        Self::new(
            TraceId::from_bytes(context.trace),
            SpanId::from_bytes(context.span),
            TraceFlags::new(context.flags),
            true,
            TraceState::NONE,
        )
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a field that may hold any JSON. What is not a trace context is none, and never a reason to
/// refuse the object. For `#[serde(default, deserialize_with = …)]`.
pub(crate) fn lenient<'de, D>(from: D) -> Result<Option<TraceContext>, D::Error>
where
    D: Deserializer<'de>,
{
    let raw = <&RawValue>::deserialize(from)?;
    let text = serde_json::from_str::<String>(raw.get()).ok();
    Ok(text.and_then(|text| TraceContext::parse(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_sound_context_is_written_as_it_was_read() {
        for flags in ["00", "01", "03", "ff"] {
            let text = format!("{}{flags}", &SOUND[..53]);
            let context = TraceContext::parse(&text).unwrap();
            assert_eq!(context.to_string(), text);
            assert_eq!(serde_json::to_value(context).unwrap(), text);
        }
        let context = TraceContext::parse(SOUND).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert_eq!(size_of::<Option<TraceContext>>(), 26);
    }

    #[test]
    fn what_is_not_sound_is_no_context() {
        for unsound in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00 4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7-01--",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0é473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(unsound), None, "{unsound}");
        }
    }

    #[test]
    fn a_field_that_holds_anything_else_is_no_context() {
        #[derive(Deserialize)]
        struct Line {
            #[serde(default, deserialize_with = "lenient")]
            traceparent: Option<TraceContext>,
        }
        let read = |json: &str| serde_json::from_str::<Line>(json).map(|line| line.traceparent);
        assert_eq!(read("{}").unwrap(), None);
        let sound = TraceContext::parse(SOUND);
        assert_eq!(read(&format!(r#"{{"traceparent":"{SOUND}"}}"#)).unwrap(), sound);
        // An escape is read before it is looked at.
        let escaped = SOUND.replace("4bf9", "\\u0034bf9");
        assert_eq!(read(&format!(r#"{{"traceparent":"{escaped}"}}"#)).unwrap(), sound);
        for other in [
            "null",
            "true",
            "7",
            "-7",
            "1e300",
            r#""""#,
            r#""x""#,
            "[]",
            r#"["a",{"b":[1]}]"#,
            r#"{"a":{"b":1}}"#,
        ] {
            assert_eq!(read(&format!(r#"{{"traceparent":{other}}}"#)).unwrap(), None, "{other}");
        }
        assert!(read(r#"{"traceparent":[}"#).is_err());
    }
}
