//! The signatures of a request, beside a second reading of its headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ingress::signature::{Keys, Refused, ReplayWindow, Scheme, SigningKey, verify};
use sha2::{Digest, Sha256};

use crate::with_peak;

/// The keys, each with what it signs with: in the schemes that sign the body, and in the other.
const KEYS: [(&str, &str, &str); 2] = [("a", "first", "first"), ("b", "whsec_c2Vjb25k", "second")];
const NOW_S: i64 = 1_700_000_000;
const WINDOW_S: i64 = 300;

/// Verifies a request that may be anything, written as it stands on the wire: fields, an empty
/// line, the body. Newlines alone separate the fields. Random bytes never become a signature, so
/// `{a}` and `{b}` stand for the plain signatures of the keys, `<a>` and `<b>` for the others.
///
/// # Panics
/// When something else is believed, or refused for another reason, than the second reading says.
pub fn check(request: &[u8]) {
    let (fields, body) = split(request, b"\n\n").unwrap_or((request, b""));
    let headers = headers(fields, body);
    let body = Bytes::copy_from_slice(body);
    for schemes in [&Scheme::ALL[..], &[Scheme::Standard]] {
        let (verified, peak) = with_peak(|| verify(&keys(schemes), &headers, body.clone(), now()));
        assert!(peak <= 4 * request.len() as u64 + 16_384, "{peak} for {}", request.len());
        let found = verified.map(|verified| {
            assert_eq!(verified.body(), &body);
            let signers = verified.signers().map(|(scheme, key)| (scheme, key.to_string()));
            let id = verified.id().map(str::to_owned);
            Believed { signers: signers.collect(), id, at: verified.signed_at() }
        });
        assert_eq!(found, read_again(&headers, &body, schemes));
        if found.is_ok() {
            let another = [&body, b" ".as_slice()].concat();
            assert!(verify(&keys(schemes), &headers, another.into(), now()).is_err());
        }
    }
}

fn keys(schemes: &[Scheme]) -> Keys {
    let secret = |text: &str| SigningKey::new(text.as_bytes()).expect("a secret");
    let window = std::time::Duration::from_secs(WINDOW_S.unsigned_abs());
    let window = ReplayWindow { window, require_timestamp: false };
    Keys::new(KEYS.map(|(id, text, _)| (id, secret(text))), schemes, window)
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW_S, 0).expect("a time")
}

/// What hyper would make of these lines, as far as it would take them.
fn headers(fields: &[u8], body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in fields.split(|byte| *byte == b'\n') {
        let Some((name, value)) = split(line, b":") else { continue };
        let Ok(name) = HeaderName::from_bytes(name) else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            headers.append(name, value);
        }
    }
    let field = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let message = [field("webhook-id"), b".", field("webhook-timestamp"), b".", body].concat();
    let values: Vec<_> = headers.iter_mut().collect();
    for (_, value) in values {
        let mut text = value.as_bytes().to_vec();
        for (id, plain, standard) in KEYS {
            let tag = hex::encode(hmac(plain, body));
            text = replace(&text, format!("{{{id}}}").as_bytes(), tag.as_bytes());
            let tag = BASE64.encode(hmac(standard, &message));
            text = replace(&text, format!("<{id}>").as_bytes(), tag.as_bytes());
        }
        *value = HeaderValue::from_bytes(&text).expect("letters and digits more");
    }
    headers
}

#[derive(Debug, PartialEq)]
struct Believed {
    signers: Vec<(Scheme, String)>,
    id: Option<String>,
    at: Option<DateTime<Utc>>,
}

/// The contract of docs/CALLBACKS.md.
fn read_again(headers: &HeaderMap, body: &[u8], schemes: &[Scheme]) -> Result<Believed, Refused> {
    let mut believed = Believed { signers: Vec::new(), id: None, at: None };
    let (mut is_malformed, mut is_wrong) = (false, false);
    for (scheme, name, prefix) in [
        (Scheme::Plain, "x-signature", ""),
        (Scheme::GitHub, "x-hub-signature-256", "sha256="),
        (Scheme::Standard, "webhook-signature", "v1,"),
    ] {
        if !headers.contains_key(name) {
            continue;
        }
        let signer = if scheme == Scheme::Standard {
            message(headers).map(|(id, timestamp, at)| {
                let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
                (believed.id, believed.at) = (Some(id), Some(at));
                signer(&tags(headers, prefix), |(_, _, text)| BASE64.encode(hmac(text, &signed)))
            })
        } else {
            only(headers, name).and_then(|value| {
                let digits = value.strip_prefix(prefix)?;
                let is_hex = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let tag = |(_, text, _): (_, &str, _)| hex::encode(hmac(text, body));
                is_hex.then(|| signer(&[digits.to_lowercase()], tag))
            })
        };
        match signer {
            None => is_malformed = true,
            Some(None) => is_wrong = true,
            Some(Some(key)) => believed.signers.push((scheme, key)),
        }
    }
    let is_allowed = believed.signers.iter().any(|(scheme, _)| schemes.contains(scheme));
    let is_late = believed.at.is_some_and(|at| (now() - at).abs() > TimeDelta::seconds(WINDOW_S));
    match (is_malformed, is_wrong, believed.signers.is_empty()) {
        (true, ..) => Err(Refused::Malformed),
        (_, true, _) => Err(Refused::Wrong),
        (.., true) => Err(Refused::Missing),
        _ if !is_allowed => Err(Refused::Scheme),
        _ if is_late => Err(Refused::Replay),
        _ => Ok(believed),
    }
}

/// The first key that makes one of the tags.
fn signer(
    tags: &[String],
    tag: impl Fn((&'static str, &'static str, &'static str)) -> String,
) -> Option<String> {
    let key = KEYS.into_iter().find(|key| tags.contains(&tag(*key)));
    key.map(|(id, ..)| id.to_owned())
}

/// The id, the time and its text, if all three headers are well formed.
fn message(headers: &HeaderMap) -> Option<(String, String, DateTime<Utc>)> {
    let id = only(headers, "webhook-id")?;
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let timestamp = only(headers, "webhook-timestamp")?;
    let is_sound = (1..=128).contains(&id.len())
        && id.bytes().all(is_id)
        && timestamp.bytes().all(|byte| byte.is_ascii_digit())
        && !tags(headers, "v1,").is_empty();
    let at = DateTime::from_timestamp(timestamp.parse().ok()?, 0)?;
    is_sound.then_some((id, timestamp, at))
}

/// The well-formed signatures of Standard Webhooks: 32 bytes are 43 characters and one `=`, and the
/// last of them holds four bits.
fn tags(headers: &HeaderMap, prefix: &str) -> Vec<String> {
    const FOUR_BITS: &str = "AEIMQUYcgkosw048";
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let all = only(headers, "webhook-signature").unwrap_or_default();
    let tags = all.split(' ').filter_map(|signature| signature.strip_prefix(prefix));
    tags.filter(|tag| {
        tag.len() == 44
            && tag.is_ascii()
            && tag[..43].bytes().all(is_base64)
            && FOUR_BITS.contains(&tag[42..43])
            && tag.ends_with('=')
    })
    .map(str::to_owned)
    .collect()
}

/// The value of a header that comes once; a byte that is not ASCII is in none that is sound.
fn only(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    let [value] = values[..] else { return None };
    Some(value.as_bytes().iter().map(|byte| char::from(*byte)).collect())
}

/// RFC 2104, for keys that are shorter than a block.
fn hmac(key: &str, text: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key.bytes()).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some((before, after)) = split(rest, from) {
        replaced.extend_from_slice(before);
        replaced.extend_from_slice(to);
        rest = after;
    }
    replaced.extend_from_slice(rest);
    replaced
}
