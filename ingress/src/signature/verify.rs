//! Verifies all signatures of a request.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::keys::{Key, Keys};
use super::scheme::{Claim, Scheme};
use super::window::InTime;

/// A request whose signatures are valid. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    body: Bytes,
    signers: Vec<Signer>,
    id: Option<String>,
    is_untimed: bool,
}

/// The signer of a valid signature. There is none without a judgement on its signed time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signer {
    scheme: Scheme,
    key: Arc<str>,
    signed_at: InTime,
}

impl Verified {
    /// The verbatim signed bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The id of the key that signed it; the first, if the schemes' signatures have different keys.
    #[must_use]
    pub fn key(&self) -> &str {
        self.signers.first().map_or("", |signer| &signer.key)
    }

    /// Each scheme that was used, with the id of its key.
    pub fn signers(&self) -> impl Iterator<Item = (Scheme, &Arc<str>)> {
        self.signers.iter().map(|signer| (signer.scheme, &signer.key))
    }

    /// The signed `webhook-id`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether all its keys are excepted where a time is required.
    #[must_use]
    pub fn is_untimed(&self) -> bool {
        self.is_untimed
    }

    /// A signed time, such as `webhook-timestamp`. Every signed time is inside the replay window.
    #[must_use]
    pub fn signed_at(&self) -> Option<DateTime<Utc>> {
        self.signers.iter().find_map(|signer| signer.signed_at.time())
    }
}

/// Why a request is refused. The sender is not told which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no signature.
    #[error("there is no signature")]
    Missing,
    /// A header occurs twice, or does not have its scheme's format.
    #[error("a signature header is repeated or malformed")]
    Malformed,
    /// A signature was made by no active key.
    #[error("no active key made the signature")]
    Wrong,
    /// The signatures are valid, but none has an allowed scheme.
    #[error("the signature's scheme is not allowed")]
    Scheme,
    /// The signatures are valid, but a time is outside the replay window, or there is none although
    /// one is required.
    #[error("outside the replay window")]
    Replay,
}

/// Verifies that every signature in the headers was made by an active key at a time inside the
/// replay window, and that one of them has an allowed scheme. Without a signature nothing is
/// computed. Otherwise every key is tried, and the result is judged at the end, so that the path is
/// the same whatever is wrong.
///
/// # Errors
/// The first [`Refused`], in its order: answer 401 to all of them alike.
pub fn verify(
    keys: &Keys,
    headers: &HeaderMap,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, Refused> {
    examine(keys, headers, body, now).map_err(|(refused, _)| refused)
}

/// The same; a refusal comes with the id of the key that has signed nevertheless, for operators.
pub(crate) fn examine(
    keys: &Keys,
    headers: &HeaderMap,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, (Refused, Option<Arc<str>>)> {
    let claims = Scheme::ALL.into_iter().filter_map(|scheme| scheme.claim(headers)).collect();
    judge(keys, claims, body, now)
}

/// How many bytes are to be hashed for it.
pub(crate) fn work_bytes(keys: &Keys, headers: &HeaderMap, body: &[u8]) -> usize {
    let is_there = |scheme: &Scheme| headers.contains_key(scheme.header());
    let claims = Scheme::ALL.iter().filter(|scheme| is_there(scheme)).count();
    claims * keys.keys.len() * body.len()
}

/// Judges what the headers claim.
pub(super) fn judge(
    keys: &Keys,
    claims: Vec<Claim<'_>>,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, (Refused, Option<Arc<str>>)> {
    if claims.is_empty() {
        return Err((Refused::Missing, None));
    }
    let found: Vec<_> = claims.iter().map(|claim| signing_key(&keys.keys, claim, &body)).collect();

    if !claims.iter().all(|claim| claim.is_well_formed) {
        return Err((Refused::Malformed, None));
    }
    let holds = found.iter().fold(Choice::from(1), |all, (holds, _)| all & *holds);
    if !bool::from(holds) {
        return Err((Refused::Wrong, None));
    }
    let key = |(_, index): &(Choice, u64)| {
        let key = usize::try_from(*index).ok().and_then(|index| keys.keys.get(index));
        key.ok_or((Refused::Wrong, None))
    };
    let signing = found.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let first = || signing.first().map(|key| Arc::clone(&key.id));
    if !claims.iter().any(|claim| keys.schemes.contains(&claim.scheme)) {
        return Err((Refused::Scheme, first()));
    }
    let signer = |(claim, key): (&Claim<'_>, &&Key)| {
        let id = Arc::clone(&key.id);
        match keys.window.judge(now, claim.signed_at) {
            Some(signed_at) => Ok(Signer { scheme: claim.scheme, key: id, signed_at }),
            None => Err((Refused::Replay, Some(id))),
        }
    };
    let signers = claims.iter().zip(&signing).map(signer).collect::<Result<_, _>>()?;
    let id = claims.iter().find_map(|claim| claim.id).map(str::to_owned);
    let is_untimed = signing.iter().all(|key| key.signing.is_untimed);
    Ok(Verified { body, signers, id, is_untimed })
}

/// Whether a key made any of the claim's tags, and the first such key. The time depends only on the
/// numbers of keys and tags and on the body's length.
fn signing_key(keys: &[Key], claim: &Claim<'_>, body: &[u8]) -> (Choice, u64) {
    let mut found = Choice::from(0);
    let mut index = 0;
    for (at, key) in (0_u64..).zip(keys) {
        let tag = key.signing.tag(claim.scheme, claim.prefix, body);
        let given = claim.tags.iter();
        let holds = given.fold(Choice::from(0), |any, given| any | tag.ct_eq(given));
        index.conditional_assign(&at, holds & !found);
        found |= holds;
    }
    (found, index)
}
