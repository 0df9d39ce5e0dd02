//! Who signed a request. Pure: no clock, nothing asynchronous.
//!
//! Three schemes, all HMAC-SHA256. The plain one and GitHub's sign the body and no time: such a
//! signature over a body without `sent_at` can be replayed for ever. Standard Webhooks signs an id
//! and a time with the body.
//!
//! To add a scheme, add a variant to [`Scheme`] and follow the compiler: `scheme.rs` reads its
//! headers into a claim, `keys.rs` says which form of the secret it signs with.

mod scheme;
mod window;

mod keys;
mod verify;

pub(crate) use self::keys::strength;
pub use self::keys::{BadSecret, Keys, MAX_KEYS, SigningKey};
pub use self::scheme::{
    GITHUB_HEADER, PLAIN_HEADER, STANDARD_HEADER, STANDARD_ID_HEADER, STANDARD_TIMESTAMP_HEADER,
    Scheme, is_message_id,
};
pub use self::verify::{Refused, Verified, verify};
pub(crate) use self::verify::{examine, work_bytes};
pub use self::window::ReplayWindow;

#[cfg(test)]
mod tests;
