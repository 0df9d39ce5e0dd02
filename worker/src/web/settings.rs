//! The console's settings, and the token that it requires outside loopback.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use shared::secret::{ExposeSecret, Secret};
use subtle::ConstantTimeEq;
use url::Url;

/// The cookie that a browser keeps after it has presented the token.
pub(super) const COOKIE: &str = "ackline_session";
/// The shortest token, in bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// What is configured of the console.
#[derive(Debug, Default)]
pub struct WebSettings {
    /// The token that a request must present; none on loopback only.
    pub token: Option<Token>,
    /// Where the workflow runs, such as `https://github.com/owner/name`.
    pub repository: Option<Url>,
}

impl WebSettings {
    /// The page of a workflow run, if it is known where workflows run.
    pub(super) fn run_url(&self, run: Option<&str>, attempt: Option<i32>) -> Option<String> {
        let run = run.filter(|run| !run.is_empty() && run.bytes().all(|b| b.is_ascii_digit()))?;
        let repository = self.repository.as_ref()?.as_str().trim_end_matches('/');
        let attempt = attempt.map(|attempt| format!("/attempts/{attempt}")).unwrap_or_default();
        Some(format!("{repository}/actions/runs/{run}{attempt}"))
    }
}

/// A secret that people and programs present for access.
#[derive(Debug)]
pub struct Token(Secret<str>);

impl Token {
    /// A token, if it is long enough and valid in a header.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn new(token: Secret<str>) -> Result<Self, String> {
        let text = token.expose_secret();
        if text.len() < MIN_TOKEN_BYTES {
            return Err(format!("the token must have at least {MIN_TOKEN_BYTES} characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token must be printable ASCII without spaces".into());
        }
        Ok(Self(token))
    }

    /// Whether this is the token. Takes constant time.
    pub(super) fn is(&self, shown: &str) -> bool {
        Sha256::digest(self.0.expose_secret()).ct_eq(&Sha256::digest(shown)).into()
    }

    /// What a browser keeps instead of the token. It is the same from every worker, and worthless
    /// once the token is replaced.
    pub(super) fn session(&self) -> String {
        // Any length of key is fine.
        let mac = <Hmac<Sha256>>::new_from_slice(self.0.expose_secret().as_bytes())
            .map(|mac| mac.chain_update(b"ackline console session"));
        mac.map(|mac| hex::encode(mac.finalize().into_bytes())).unwrap_or_default()
    }

    /// Whether this is the cookie's valid content.
    pub(super) fn is_session(&self, kept: &str) -> bool {
        let session = self.session();
        !session.is_empty() && bool::from(session.as_bytes().ct_eq(kept.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_hidden_and_known_by_itself_only() {
        for bad in ["", "short", "with a space in it", "0123456789abcde\u{e9}"] {
            let why = Token::new(bad.to_owned().into()).unwrap_err();
            assert!(bad.is_empty() || !why.contains(bad), "{why}");
        }
        let token = Token::new("0123456789abcdef".to_owned().into()).unwrap();
        let other = Token::new("0123456789abcdeg".to_owned().into()).unwrap();
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
        assert!(token.is("0123456789abcdef"));
        assert!(!token.is("0123456789abcde") && !token.is("") && !other.is("0123456789abcdef"));
        assert!(token.is_session(&token.session()));
        assert!(!other.is_session(&token.session()) && !token.is_session("0123456789abcdef"));
    }

    #[test]
    fn only_a_run_of_github_has_a_page() {
        let repository = Some("https://github.com/owner/name/".parse().unwrap());
        let settings = WebSettings { token: None, repository };
        assert_eq!(
            settings.run_url(Some("42"), Some(2)).unwrap(),
            "https://github.com/owner/name/actions/runs/42/attempts/2"
        );
        assert_eq!(
            settings.run_url(Some("42"), None).unwrap(),
            "https://github.com/owner/name/actions/runs/42"
        );
        for run in [None, Some(""), Some("../../login"), Some("4x")] {
            assert_eq!(settings.run_url(run, Some(1)), None, "{run:?}");
        }
        assert_eq!(WebSettings::default().run_url(Some("42"), None), None);
    }
}
