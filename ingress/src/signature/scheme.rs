//! The signature schemes: what a request's headers claim in each of them.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use shared::callback::MAX_EVENT_ID_BYTES;

/// The header of the plain scheme: 64 hex digits, the HMAC of the body.
pub const PLAIN_HEADER: &str = "x-signature";
/// The header of GitHub's scheme: `sha256=` and 64 hex digits, the HMAC of the body.
pub const GITHUB_HEADER: &str = "x-hub-signature-256";
/// The header of Standard Webhooks: `v1,<base64>`, several of them separated by spaces; the HMAC
/// of `<id>.<timestamp>.<body>`.
pub const STANDARD_HEADER: &str = "webhook-signature";
/// The message's id in Standard Webhooks.
pub const STANDARD_ID_HEADER: &str = "webhook-id";
/// When a Standard Webhooks message was sent, in Unix seconds.
pub const STANDARD_TIMESTAMP_HEADER: &str = "webhook-timestamp";

/// A way to sign a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `X-Signature`.
    Plain,
    /// `X-Hub-Signature-256`.
    GitHub,
    /// `webhook-signature`, with `webhook-id` and `webhook-timestamp`.
    Standard,
}

impl Scheme {
    /// Every scheme, in the order of evaluation.
    pub const ALL: [Self; 3] = [Self::Plain, Self::GitHub, Self::Standard];

    /// The name in settings and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::GitHub => "github",
            Self::Standard => "standard",
        }
    }

    /// The header with the signature.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Plain => PLAIN_HEADER,
            Self::GitHub => GITHUB_HEADER,
            Self::Standard => STANDARD_HEADER,
        }
    }

    /// What the headers claim; nothing if there is no header of this scheme.
    pub(super) fn claim(self, headers: &HeaderMap) -> Option<Claim<'_>> {
        let claim = || match self {
            Self::Plain => Claim::plain(headers),
            Self::GitHub => Claim::github(headers),
            Self::Standard => Claim::standard(headers),
        };
        let is_there = headers.contains_key(self.header());
        is_there.then(|| claim().unwrap_or(Claim::malformed(self)))
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|scheme| scheme.as_str() == text.trim());
        let all = Self::ALL.map(Self::as_str).join(",");
        known.ok_or_else(|| format!("\"{text}\" is not one of {all}"))
    }
}

/// What is signed before a body, piece by piece; the pieces that a scheme does not need are empty.
pub(super) type Prefix<'a> = [&'a [u8]; 4];

/// The body alone is signed.
pub(super) const NO_PREFIX: Prefix<'static> = [b""; 4];

/// What the headers of one scheme claim: that the secret's owner signed this prefix and the body,
/// and at which time. A scheme that signs a time names it here, and nowhere else, so that
/// [`verify`](super::verify()) judges it.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) scheme: Scheme,
    /// The tags, any of which may hold; of a malformed claim, one of zeros.
    pub(super) tags: Vec<[u8; 32]>,
    /// Whether the headers are well-formed.
    pub(super) is_well_formed: bool,
    /// The headers' very bytes, as they are signed before the body.
    pub(super) prefix: Prefix<'a>,
    /// The signed time, in a scheme that has one.
    pub(super) signed_at: Option<DateTime<Utc>>,
    /// The signed id of the message, in a scheme that has one.
    pub(super) id: Option<&'a str>,
}

impl<'a> Claim<'a> {
    /// A claim that is compared like every other, and then rejected.
    pub(super) fn malformed(scheme: Scheme) -> Self {
        Self { is_well_formed: false, ..Self::of_body(scheme, [0; 32]) }
    }

    /// A claim of a scheme that signs only the body, and no time.
    fn of_body(scheme: Scheme, tag: [u8; 32]) -> Self {
        let (prefix, tags) = (NO_PREFIX, vec![tag]);
        Self { scheme, tags, is_well_formed: true, prefix, signed_at: None, id: None }
    }

    fn plain(headers: &HeaderMap) -> Option<Self> {
        Some(Self::of_body(Scheme::Plain, tag(only(headers, PLAIN_HEADER)?)?))
    }

    fn github(headers: &HeaderMap) -> Option<Self> {
        let digits = only(headers, GITHUB_HEADER)?.strip_prefix(b"sha256=")?;
        Some(Self::of_body(Scheme::GitHub, tag(digits)?))
    }

    fn standard(headers: &'a HeaderMap) -> Option<Self> {
        let id = str::from_utf8(only(headers, STANDARD_ID_HEADER)?).ok();
        let id = id.filter(|id| is_message_id(id))?;
        let timestamp = only(headers, STANDARD_TIMESTAMP_HEADER)?;
        // Signatures of other versions may stand beside ours.
        let signatures = only(headers, STANDARD_HEADER)?.split(|byte| *byte == b' ');
        let tags: Vec<_> = signatures
            .filter_map(|signature| {
                let mut tag = [0; 32];
                let decoded = BASE64.decode_slice(signature.strip_prefix(b"v1,")?, &mut tag);
                (decoded == Ok(tag.len())).then_some(tag)
            })
            .collect();
        (!tags.is_empty()).then_some(Self {
            scheme: Scheme::Standard,
            tags,
            is_well_formed: true,
            prefix: standard_prefix(id, timestamp),
            signed_at: Some(seconds(timestamp)?),
            id: Some(id),
        })
    }
}

/// What Standard Webhooks signs before the body.
pub(super) fn standard_prefix<'a>(id: &'a str, timestamp: &'a [u8]) -> Prefix<'a> {
    [id.as_bytes(), b".", timestamp, b"."]
}

/// Reads 64 hex digits.
fn tag(digits: &[u8]) -> Option<[u8; 32]> {
    let mut tag = [0; 32];
    // This also refuses every other length.
    hex::decode_to_slice(digits, &mut tag).ok().map(|()| tag)
}

/// The value of a header that must occur exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// Whether a `webhook-id` is sound: 1 to 128 letters, digits, `_`, `.` and `-`. It can contain
/// nothing that begins a JSON body, so no text signed under one scheme passes under another.
#[must_use]
pub fn is_message_id(id: &str) -> bool {
    (1..=MAX_EVENT_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Unix seconds, digits only.
fn seconds(text: &[u8]) -> Option<DateTime<Utc>> {
    let is_sound = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = is_sound.then(|| str::from_utf8(text).ok()).flatten()?;
    DateTime::from_timestamp(text.parse().ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_read_by_their_names() {
        for scheme in Scheme::ALL {
            assert_eq!(format!(" {} ", scheme.as_str()).parse(), Ok(scheme));
        }
        for bad in ["", "GitHub", "sha1", "plain github"] {
            let problem = bad.parse::<Scheme>().unwrap_err();
            assert!(problem.contains("plain,github,standard"), "{problem}");
        }
    }

    #[test]
    fn times_are_digits() {
        assert_eq!(seconds(b"0"), Some(DateTime::UNIX_EPOCH));
        assert!(seconds(b"1700000000").is_some());
        for bad in [&b""[..], b"+5", b"-5", b" 5", b"5.0", b"1e3", b"99999999999999999999"] {
            assert_eq!(seconds(bad), None);
        }
    }
}
