//! The decoder of bundles.

use bytes::Bytes;
use shared::bundle::{Entry, NotABundle, decode, encode};

use crate::with_peak;

/// Decodes a payload that may be anything.
///
/// # Panics
/// When the decoder breaks a limit, needs too much memory, or believes what does not encode to the
/// same callbacks.
pub fn check(payload: &[u8]) {
    let payload = Bytes::copy_from_slice(payload);
    let (decoded, peak) = with_peak(|| decode(&payload));
    // The entries of a full bundle, and the texts of the metadata.
    assert!(peak <= 4 * payload.len() as u64 + 65_536, "{peak} bytes for {}", payload.len());
    let Ok(entries) = decoded else { return };
    assert!((1..=256).contains(&entries.len()));
    let mut from = payload.as_ptr_range().start;
    for Entry { body, .. } in &entries {
        let at = body.as_ptr_range();
        assert!(from <= at.start && at.end < payload.as_ptr_range().end, "bodies share memory");
        from = at.end;
    }
    assert_eq!(decode(&payload.slice(..payload.len() - 1)), Err(cut(&entries)));
    assert_eq!(decode(&encode_all(&entries)), Ok(entries));
}

/// A bundle of these callbacks.
#[must_use]
pub fn encode_all(entries: &[Entry]) -> Bytes {
    let encoded = entries.iter().map(|entry| encode(&entry.metadata, &entry.body));
    encoded.collect::<Vec<_>>().concat().into()
}

fn cut(entries: &[Entry]) -> NotABundle {
    NotABundle::Length(entries.len() - 1)
}
