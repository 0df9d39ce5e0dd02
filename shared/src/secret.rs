//! Secrets: passwords, tokens and keys.
//!
//! [`Secret`] is the crate `secrecy`'s. Its `Debug` prints nothing of the secret, it has no
//! `Display`, its memory is wiped on drop, and reading it is explicit: `expose_secret`.
//! `Secret<str>` is a text, `Secret<Vec<u8>>` are bytes.

use std::convert::Infallible;

pub use secrecy::{ExposeSecret, SecretBox as Secret};

/// Takes a setting that may hold a password. For `#[arg(value_parser = …)]`.
///
/// # Errors
/// None: the code that knows its format checks it.
pub fn from_setting(text: &str) -> Result<Secret<str>, Infallible> {
    Ok(text.to_owned().into())
}

#[cfg(test)]
mod tests {
    use secrecy::zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_leaves_nothing_behind() {
        fn is_wiped<T: ZeroizeOnDrop>(_: &T) {}
        let text = from_setting("hunter2").unwrap();
        let bytes = Secret::new(Box::new(b"hunter2".to_vec()));
        is_wiped(&text);
        is_wiped(&bytes);
        for shown in [format!("{text:?} {bytes:?}"), format!("{:#?}", (&text, &bytes))] {
            assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        }
        assert_eq!((text.expose_secret(), &**bytes.expose_secret()), ("hunter2", &b"hunter2"[..]));
    }
}
