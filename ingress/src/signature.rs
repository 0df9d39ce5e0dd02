//! Who signed a body. Pure: no clock, nothing asynchronous.
//!
//! The scheme is `X-Signature: <64 hex>`, the HMAC-SHA256 of the body. It says nothing of time: a
//! plain signature over a body without `sent_at` can be replayed for ever.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// The header that carries the plain signature.
pub const PLAIN_HEADER: &str = "x-signature";

const TAG_BYTES: usize = 32;

/// A secret shared with senders. Never shows itself.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// A secret of no bytes, with which anyone could sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is set but empty")]
pub struct EmptySecret;

impl Secret {
    /// Takes the bytes of a secret as they are.
    ///
    /// # Errors
    /// [`EmptySecret`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, EmptySecret> {
        if bytes.is_empty() { Err(EmptySecret) } else { Ok(Self(bytes)) }
    }

    fn mac(&self) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        Hmac::new_from_slice(&self.0).expect("HMAC takes a key of any length")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The active keys, each ready to sign.
#[derive(Clone)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: Arc<str>,
    /// With the key schedule already computed; cloned for each body.
    mac: Hmac<Sha256>,
}

impl Keys {
    /// Prepares secrets, each with the id that stands for it in metadata.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = (impl Into<Arc<str>>, Secret)>) -> Self {
        let key = |(id, secret): (_, Secret)| Key { id: Into::into(id), mac: secret.mac() };
        Self(secrets.into_iter().map(key).collect())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// A body whose signature holds. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    body: Bytes,
    key: Arc<str>,
}

impl Verified {
    /// The verbatim signed bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The id of the key that signed it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A body that nobody we know has signed; deliberately says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold")]
pub struct Refused;

/// Verifies a body against every key, on the same path whatever is wrong with the signature.
///
/// # Errors
/// [`Refused`] when the header is missing, repeated or malformed, or no key made the signature.
pub fn verify(keys: &Keys, headers: &HeaderMap, body: Bytes) -> Result<Verified, Refused> {
    // A tag that is missing or malformed is compared too: as zeros, and then never believed.
    let (given, well_formed) = plain_tag(headers);
    let mut found = Choice::from(0);
    let mut index = 0_u64;
    for (at, key) in (0_u64..).zip(&keys.0) {
        let tag = key.mac.clone().chain_update(&body).finalize().into_bytes();
        let first = tag.as_slice().ct_eq(&given) & !found;
        index.conditional_assign(&at, first);
        found |= first;
    }
    if !bool::from(found & well_formed) {
        return Err(Refused);
    }
    let key = usize::try_from(index).ok().and_then(|index| keys.0.get(index)).ok_or(Refused)?;
    Ok(Verified { body, key: Arc::clone(&key.id) })
}

fn plain_tag(headers: &HeaderMap) -> ([u8; TAG_BYTES], Choice) {
    let mut tag = [0; TAG_BYTES];
    let mut values = headers.get_all(PLAIN_HEADER).iter();
    let well_formed = match (values.next(), values.next()) {
        // Refuses every other length than 64 digits, too.
        (Some(value), None) => hex::decode_to_slice(value.as_bytes(), &mut tag).is_ok(),
        _ => false,
    };
    (tag, Choice::from(u8::from(well_formed)))
}

/// Signs a body: the value of `X-Signature`.
#[must_use]
pub fn sign(secret: &Secret, body: &[u8]) -> String {
    hex::encode(secret.mac().chain_update(body).finalize().into_bytes())
}

/// How old, or how far ahead, a callback may be that says when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The distance allowed in both directions, inclusive.
    pub window: Duration,
    /// Whether a callback that doesn't say is refused.
    pub require_timestamp: bool,
}

impl ReplayWindow {
    /// Judges the `sent_at` of a callback that arrives `now`.
    ///
    /// # Errors
    /// [`Refused`] outside the window, or without a time where one is required.
    pub fn check(self, now: DateTime<Utc>, sent_at: Option<DateTime<Utc>>) -> Result<(), Refused> {
        let window = TimeDelta::from_std(self.window).unwrap_or(TimeDelta::MAX);
        let holds = match sent_at {
            Some(sent_at) => now.signed_duration_since(sent_at).abs() <= window,
            None => !self.require_timestamp,
        };
        if holds { Ok(()) } else { Err(Refused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn secret(text: &str) -> Secret {
        Secret::new(text.into()).unwrap()
    }

    fn keys() -> Keys {
        Keys::new([("old", secret("o")), ("new", secret("n")), ("same as new", secret("n"))])
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PLAIN_HEADER, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_known_answers_of_rfc_4231_come_out() {
        let cases: [(Vec<u8>, &[u8], &str); 5] = [
            (
                vec![0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                vec![0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size \
                  data. The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, data, expected) in cases {
            let secret = Secret::new(key).unwrap();
            assert_eq!(sign(&secret, data), expected);
            let keys = Keys::new([("it", secret)]);
            let verified = verify(&keys, &headers(&[expected]), Bytes::from_static(data));
            assert_eq!(verified.unwrap().key(), "it");
        }
    }

    #[test]
    fn every_active_key_is_tried_and_the_first_that_fits_is_named() {
        let body = Bytes::from_static(b"{}");
        for (with, named) in [("o", "old"), ("n", "new")] {
            let signature = sign(&secret(with), &body);
            for signature in [signature.to_uppercase(), signature] {
                let verified = verify(&keys(), &headers(&[&signature]), body.clone()).unwrap();
                assert_eq!((verified.key(), verified.body()), (named, &body));
            }
        }
        let unknown = sign(&secret("x"), &body);
        assert_eq!(verify(&keys(), &headers(&[&unknown]), body), Err(Refused));
    }

    #[test]
    fn a_signature_that_is_not_exactly_one_is_refused() {
        let good = sign(&secret("n"), b"body");
        for bad in [
            &[][..],
            &[""],
            &[good.as_str(), good.as_str()],
            &[&good[..63]],
            &[&good[..62]],
            &[&format!("{good}0")],
            &[&format!("{good}00")],
            &[&format!("sha256={good}")],
            &[&format!("{good},{good}")],
            &[&format!("g{}", &good[1..])],
            &[&"0".repeat(64)],
        ] {
            let refused = verify(&keys(), &headers(bad), Bytes::from_static(b"body"));
            assert_eq!(refused, Err(Refused), "{bad:?}");
        }
        let mut not_ascii = HeaderMap::new();
        not_ascii.insert(PLAIN_HEADER, HeaderValue::from_bytes(&[0xe9; 64]).unwrap());
        assert_eq!(verify(&keys(), &not_ascii, Bytes::new()), Err(Refused));
        let other_body = verify(&keys(), &headers(&[&good]), Bytes::from_static(b"body "));
        assert_eq!(other_body, Err(Refused));
        let no_keys = Keys::new(Vec::<(&str, Secret)>::new());
        let refused = verify(&no_keys, &headers(&[&good]), Bytes::from_static(b"body"));
        assert_eq!(refused, Err(Refused));
    }

    #[test]
    fn the_replay_window_is_inclusive_in_both_directions() {
        let window = |require_timestamp| ReplayWindow {
            window: Duration::from_secs(300),
            require_timestamp,
        };
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let at = |micros| Some(now + TimeDelta::microseconds(micros));
        for (sent_at, holds) in [
            (at(0), true),
            (at(300_000_000), true),
            (at(-300_000_000), true),
            (at(300_000_001), false),
            (at(-300_000_001), false),
        ] {
            assert_eq!(window(true).check(now, sent_at).is_ok(), holds, "{sent_at:?}");
            assert_eq!(window(false).check(now, sent_at).is_ok(), holds, "{sent_at:?}");
        }
        assert_eq!(window(false).check(now, None), Ok(()));
        assert_eq!(window(true).check(now, None), Err(Refused));
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        assert!(!format!("{:?}", secret("hunter2")).contains("hunter2"));
        assert!(!format!("{:?}", Keys::new([("a", secret("hunter2"))])).contains("hunter2"));
        assert_eq!(Secret::new(Vec::new()).unwrap_err(), EmptySecret);
    }
}
