//! The judgement on all signatures of a request.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::keys::{Key, Keys};
use super::scheme::{Claim, Scheme};
use super::window::InTime;

/// A request whose signatures hold. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    body: Bytes,
    signers: Vec<Signer>,
    id: Option<String>,
}

/// A signature that holds: nobody is one without a judgement on the time that was signed.
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

    /// The id of the key that signed it; the first, if each scheme's signature has another.
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

    /// A signed time, such as `webhook-timestamp`. Every signed time is within the replay window.
    #[must_use]
    pub fn signed_at(&self) -> Option<DateTime<Utc>> {
        self.signers.iter().find_map(|signer| signer.signed_at.time())
    }
}

/// Why a request is not believed. Its sender is not told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no signature.
    #[error("there is no signature")]
    Missing,
    /// A header comes twice, or is not what its scheme says.
    #[error("a signature header is repeated or malformed")]
    Malformed,
    /// No active key made a signature that is there.
    #[error("no active key made the signature")]
    Wrong,
    /// The signatures hold, but none is of a scheme that is allowed.
    #[error("the signature's scheme is not allowed")]
    Scheme,
    /// The signatures hold, but a time of sending is outside the replay window, or there is none
    /// although one is required.
    #[error("outside the replay window")]
    Replay,
}

/// Verifies that every signature in the headers was made by an active key at a time within the
/// replay window, and that one of them is of an allowed scheme. Every key is tried, and what was
/// found is judged at the end, so that the way there is the same whatever is wrong.
///
/// # Errors
/// The first [`Refused`], in its order: answer 401 to all of them alike.
pub fn verify(
    keys: &Keys,
    headers: &HeaderMap,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, Refused> {
    let claims = Scheme::ALL.into_iter().filter_map(|scheme| scheme.claim(headers)).collect();
    judge(keys, claims, body, now)
}

/// Judges what the headers claim.
pub(super) fn judge(
    keys: &Keys,
    mut claims: Vec<Claim<'_>>,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, Refused> {
    let is_missing = claims.is_empty();
    if is_missing {
        claims.push(Claim::malformed(Scheme::Plain));
    }
    let found: Vec<_> = claims.iter().map(|claim| signing_key(&keys.keys, claim, &body)).collect();

    if is_missing {
        return Err(Refused::Missing);
    }
    if !claims.iter().all(|claim| claim.is_well_formed) {
        return Err(Refused::Malformed);
    }
    let holds = found.iter().fold(Choice::from(1), |all, (holds, _)| all & *holds);
    if !bool::from(holds) {
        return Err(Refused::Wrong);
    }
    if !claims.iter().any(|claim| keys.schemes.contains(claim.scheme)) {
        return Err(Refused::Scheme);
    }
    let signer = |(claim, (_, index)): (&Claim<'_>, &(Choice, u64))| {
        let key = usize::try_from(*index).ok().and_then(|index| keys.keys.get(index));
        let key = Arc::clone(&key.ok_or(Refused::Wrong)?.id);
        let signed_at = keys.window.judge(now, claim.signed_at).ok_or(Refused::Replay)?;
        Ok(Signer { scheme: claim.scheme, key, signed_at })
    };
    let signers = claims.iter().zip(&found).map(signer).collect::<Result<_, _>>()?;
    let id = claims.iter().find_map(|claim| claim.id).map(str::to_owned);
    Ok(Verified { body, signers, id })
}

/// The first key that made any of the claim's tags, and whether there is one, in a time that
/// depends on the numbers of keys and tags and on the body's length only.
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
