//! Tells operators of refused signatures.

use std::time::Duration;

use hyper::http::request::Parts;
use shared::listener::{Peer, forwarded_for};
use shared::telemetry::Limited;

use crate::answer::Refusal;
use crate::signature::Refused;

/// How often a refused signature is logged for each reason.
const EVERY: Duration = Duration::from_secs(10);

/// Logs refused signatures, with where they came from: for each reason one line in a while, because
/// anyone can cause them.
#[derive(Debug)]
pub(super) struct SignatureRefusals([Limited; 5]);

impl Default for SignatureRefusals {
    fn default() -> Self {
        Self([const { Limited::new(EVERY) }; 5])
    }
}

impl SignatureRefusals {
    /// `key` has signed nevertheless, if it is known.
    pub(super) fn tell(&self, refused: Refused, key: Option<&str>, head: &Parts) {
        let Self([missing, malformed, wrong, scheme, replay]) = self;
        let limited = match refused {
            Refused::Missing => missing,
            Refused::Malformed => malformed,
            Refused::Wrong => wrong,
            Refused::Scheme => scheme,
            Refused::Replay => replay,
        };
        let Some(not_logged) = limited.admit() else { return };
        let refusal = Refusal::Signature(refused);
        let (reason, code) = (refusal.reason(), refusal.code());
        let address = head.extensions.get().map(|Peer(address)| tracing::field::display(*address));
        let forwarded_for = forwarded_for(&head.headers);
        tracing::warn!(
            reason,
            code,
            address,
            forwarded_for,
            key,
            not_logged,
            "{code}: refused a signature: {refused}"
        );
    }
}
