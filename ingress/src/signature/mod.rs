//! Who signed a request. Pure: no clock, nothing asynchronous.
//!
//! Three schemes, all HMAC-SHA256. The plain one and GitHub's sign the body and say nothing of
//! time: such a signature over a body without `sent_at` can be replayed for ever. Standard Webhooks
//! signs an id and a time with the body.

mod keys;
mod scheme;
mod window;

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use self::keys::Key;
pub use self::keys::{BadSecret, Keys, Secret};
use self::scheme::Claim;
pub use self::scheme::{
    GITHUB_HEADER, PLAIN_HEADER, STANDARD_HEADER, STANDARD_ID_HEADER, STANDARD_TIMESTAMP_HEADER,
    Scheme, Schemes, is_message_id,
};
pub use self::window::ReplayWindow;

/// A request whose signatures hold. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    body: Bytes,
    signers: Vec<(Scheme, Arc<str>)>,
    message: Option<(String, DateTime<Utc>)>,
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
        self.signers.first().map_or("", |(_, key)| key)
    }

    /// Each scheme that was used, with the id of its key.
    pub fn signers(&self) -> impl Iterator<Item = (Scheme, &Arc<str>)> {
        self.signers.iter().map(|(scheme, key)| (*scheme, key))
    }

    /// The signed `webhook-id`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.message.as_ref().map(|(id, _)| id.as_str())
    }

    /// The signed `webhook-timestamp`, within the replay window.
    #[must_use]
    pub fn signed_at(&self) -> Option<DateTime<Utc>> {
        self.message.as_ref().map(|(_, at)| *at)
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
    /// The signatures hold, but the time of sending is outside the replay window, or missing
    /// although one is required.
    #[error("outside the replay window")]
    Replay,
}

/// Verifies that every signature in the headers was made by an active key, and that one of them is
/// of an allowed scheme and of its time. Every key is tried, and what was found is judged at the
/// end, so that the way there is the same whatever is wrong.
///
/// # Errors
/// [`Refused`].
pub fn verify(
    keys: &Keys,
    headers: &HeaderMap,
    body: Bytes,
    now: DateTime<Utc>,
) -> Result<Verified, Refused> {
    let mut claims: Vec<_> =
        Scheme::ALL.into_iter().filter_map(|scheme| scheme.claim(headers)).collect();
    let is_missing = claims.is_empty();
    if is_missing {
        claims.push(Claim::malformed(Scheme::Plain));
    }
    let found: Vec<_> = claims.iter().map(|claim| signer(&keys.keys, claim, &body)).collect();

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
    let message = claims.iter().find_map(|claim| claim.message);
    if message.is_some_and(|message| !keys.window.contains(now, message.sent_at)) {
        return Err(Refused::Replay);
    }
    let key = |index: u64| keys.keys.get(usize::try_from(index).ok()?);
    let signer = |(claim, (_, index)): (&Claim<'_>, &(Choice, u64))| {
        Some((claim.scheme, Arc::clone(&key(*index)?.id)))
    };
    let signers = claims.iter().zip(&found).map(signer).collect::<Option<_>>();
    let signers = signers.ok_or(Refused::Wrong)?;
    let message = message.map(|message| (message.id.to_owned(), message.sent_at));
    Ok(Verified { body, signers, message })
}

/// The first key that made any of the claim's tags, and whether there is one, in a time that
/// depends on the numbers of keys and tags and on the body's length only.
fn signer(keys: &[Key], claim: &Claim<'_>, body: &[u8]) -> (Choice, u64) {
    let prefix = claim.message.map(|message| [message.id.as_bytes(), message.timestamp]);
    let mut found = Choice::from(0);
    let mut index = 0;
    for (at, key) in (0_u64..).zip(keys) {
        let tag = key.secret.tag(claim.scheme, prefix, body);
        let given = claim.tags.iter();
        let holds = given.fold(Choice::from(0), |any, given| any | tag.ct_eq(given));
        index.conditional_assign(&at, holds & !found);
        found |= holds;
    }
    (found, index)
}

#[cfg(test)]
mod tests;
