//! The keys, derived once from the secrets.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Utc};
use hmac::digest::FixedOutput;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shared::secret::{ExposeSecret, Secret};

use super::scheme::{NO_PREFIX, Prefix, Scheme, standard_prefix};
use super::window::ReplayWindow;

/// The prefix of a Standard Webhooks secret, whose rest is base64.
const STANDARD_PREFIX: &[u8] = b"whsec_";
/// Secrets come with and without padding.
const PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How many keys there may be: each is tried with every signature.
pub const MAX_KEYS: usize = 256;

/// A secret shared with senders, ready to sign and to verify. `Debug` hides it, and its memory is
/// wiped on drop.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Whether its owner need not send a time, although the others must.
    pub(super) is_untimed: bool,
    /// With the key schedule already computed; cloned for each body.
    verbatim: Hmac<Sha256>,
    standard: Hmac<Sha256>,
}

/// A secret that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// It is empty, so anyone could sign.
    #[error("is set but empty")]
    Empty,
    /// It has the prefix of a Standard Webhooks secret, but the rest is not base64.
    #[error("begins with whsec_, but what follows is not the base64 of a secret: copy it whole")]
    NotBase64,
}

impl SigningKey {
    /// Takes the bytes of a secret as they are. For Standard Webhooks, and for no other scheme,
    /// `whsec_<base64>` is decoded.
    ///
    /// # Errors
    /// [`BadSecret`]: say where the secret is, and quote nothing of it.
    pub fn new(bytes: &[u8]) -> Result<Self, BadSecret> {
        if bytes.is_empty() {
            return Err(BadSecret::Empty);
        }
        let verbatim = schedule(bytes);
        let standard = match decoded(bytes)? {
            None => verbatim.clone(),
            Some(decoded) => schedule(decoded.expose_secret()),
        };
        Ok(Self { is_untimed: false, verbatim, standard })
    }

    /// The same, for senders that send no time: they are excepted where a time is required.
    #[must_use]
    pub fn untimed(self) -> Self {
        Self { is_untimed: true, ..self }
    }

    /// The tag of a body, preceded by the prefix that its scheme signs.
    pub(super) fn tag(&self, scheme: Scheme, prefix: Prefix<'_>, body: &[u8]) -> [u8; 32] {
        let mut mac = match scheme {
            Scheme::Plain | Scheme::GitHub => self.verbatim.clone(),
            Scheme::Standard => self.standard.clone(),
        };
        for part in prefix {
            mac.update(part);
        }
        mac.update(body);
        mac.finalize_fixed().into()
    }

    /// Signs a body: the value of `X-Signature`.
    #[must_use]
    pub fn sign_plain(&self, body: &[u8]) -> String {
        hex::encode(self.tag(Scheme::Plain, NO_PREFIX, body))
    }

    /// Signs a body: the value of `X-Hub-Signature-256`.
    #[must_use]
    pub fn sign_github(&self, body: &[u8]) -> String {
        format!("sha256={}", hex::encode(self.tag(Scheme::GitHub, NO_PREFIX, body)))
    }

    /// Signs a body: the value of `webhook-signature` for this id, and for this `webhook-timestamp`
    /// in Unix seconds.
    #[must_use]
    pub fn sign_standard(&self, id: &str, at: DateTime<Utc>, body: &[u8]) -> String {
        let at = at.timestamp().to_string();
        let tag = self.tag(Scheme::Standard, standard_prefix(id, at.as_bytes()), body);
        format!("v1,{}", BASE64.encode(tag))
    }
}

/// How many bytes of a secret its holder must know to sign in some scheme.
///
/// # Errors
/// [`BadSecret::NotBase64`].
pub(crate) fn strength(bytes: &[u8]) -> Result<usize, BadSecret> {
    Ok(decoded(bytes)?.map_or(bytes.len(), |decoded| decoded.expose_secret().len()))
}

/// The key for Standard Webhooks, if the secret is the base64 of it.
fn decoded(bytes: &[u8]) -> Result<Option<Secret<Vec<u8>>>, BadSecret> {
    let Some(encoded) = bytes.strip_prefix(STANDARD_PREFIX) else { return Ok(None) };
    match PADDED_OR_NOT.decode(encoded) {
        Ok(decoded) if !decoded.is_empty() => Ok(Some(Secret::new(Box::new(decoded)))),
        _ => Err(BadSecret::NotBase64),
    }
}

fn schedule(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The active keys, the allowed schemes, and the replay window.
#[derive(Clone)]
pub struct Keys {
    pub(super) keys: Vec<Key>,
    pub(super) schemes: Vec<Scheme>,
    pub(super) window: ReplayWindow,
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Arc<str>,
    pub(super) signing: SigningKey,
}

impl Keys {
    /// Takes secrets, each with the id that names it in metadata, metrics and logs.
    #[must_use]
    pub fn new(
        secrets: impl IntoIterator<Item = (impl Into<Arc<str>>, SigningKey)>,
        schemes: &[Scheme],
        window: ReplayWindow,
    ) -> Self {
        let key = |(id, signing): (_, SigningKey)| Key { id: Into::into(id), signing };
        let keys = secrets.into_iter().map(key).collect();
        Self { keys, schemes: schemes.to_vec(), window }
    }

    /// The ids, in the order in which the keys are tried.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.keys.iter().map(|key| &key.id)
    }

    /// The allowed schemes.
    #[must_use]
    pub fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    /// The replay window.
    #[must_use]
    pub fn window(&self) -> ReplayWindow {
        self.window
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use hmac::digest::zeroize::ZeroizeOnDrop;

    use super::*;

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
            let secret = SigningKey::new(&key).unwrap();
            assert_eq!(secret.sign_plain(data), expected);
            assert_eq!(secret.sign_github(data), format!("sha256={expected}"));
        }
    }

    #[test]
    fn the_example_of_standard_webhooks_comes_out() {
        // The example in the reference implementations of the specification.
        let secret = SigningKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let at = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let signature =
            secret.sign_standard("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_decoded_for_standard_webhooks_only() {
        let encoded = SigningKey::new(b"whsec_aHVudGVyMg==").unwrap();
        let unpadded = SigningKey::new(b"whsec_aHVudGVyMg").unwrap();
        let decoded = SigningKey::new(b"hunter2").unwrap();
        let at = DateTime::UNIX_EPOCH;
        assert_eq!(encoded.sign_standard("a", at, b"x"), decoded.sign_standard("a", at, b"x"));
        assert_eq!(unpadded.sign_standard("a", at, b"x"), decoded.sign_standard("a", at, b"x"));
        assert_ne!(encoded.sign_plain(b"x"), decoded.sign_plain(b"x"));
        assert_ne!(encoded.sign_github(b"x"), decoded.sign_github(b"x"));
    }

    #[test]
    fn bad_secrets_are_refused() {
        assert_eq!(SigningKey::new(b"").unwrap_err(), BadSecret::Empty);
        for bad in [&b"whsec_"[..], b"whsec_===", b"whsec_a", b"whsec_\xff\xff\xff\xff"] {
            assert_eq!(SigningKey::new(bad).unwrap_err(), BadSecret::NotBase64);
        }
        assert!(SigningKey::new(b"\xff\0").is_ok(), "any bytes");
    }

    #[test]
    fn keys_do_not_show_themselves_and_leave_nothing_behind() {
        fn is_wiped<T: ZeroizeOnDrop>(_: &T) {}
        let key = || SigningKey::new(b"hunter2").unwrap();
        // The HMAC is made of it.
        is_wiped(&Sha256::default());
        assert!(!format!("{:?}", key()).contains("hunter2"));
        let keys = Keys::new([("a", key())], &Scheme::ALL, ReplayWindow::for_tests());
        assert_eq!(format!("{keys:?}"), r#"{"a"}"#);
    }
}
