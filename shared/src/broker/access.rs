//! How a process authenticates to the broker.

use std::fmt;

use async_nats::Auth;
use nkeys::{KeyPair, KeyPairType};

use crate::secret::{ExposeSecret, Secret};
use crate::settings::{InFile, Unusable};

/// The one way in which a process authenticates.
#[derive(Debug, Clone)]
pub(super) enum Access {
    Nobody,
    /// In the address.
    Password {
        user: String,
        password: Secret<str>,
    },
    /// In the address.
    Token(Secret<str>),
    PasswordFile {
        user: String,
        file: InFile,
    },
    Nkey(InFile),
    Credentials(InFile),
}

impl Access {
    /// The answer to a server that has sent this nonce. Files are read again.
    pub(super) fn present(&self, nonce: &[u8]) -> Result<Auth, Unusable> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::Password { user, password } => {
                (auth.username, auth.password) = (Some(user.clone()), Some(exposed(password)));
            }
            Self::Token(token) => auth.token = Some(exposed(token)),
            Self::PasswordFile { user, file } => {
                let password = file.password()?;
                (auth.username, auth.password) = (Some(user.clone()), Some(exposed(&password)));
            }
            Self::Nkey(file) => {
                let text = file.text()?;
                let mut lines = text.expose_secret().lines().map(str::trim);
                let seed = lines.find(|line| line.starts_with('S'));
                let key = user_key(file, seed.unwrap_or_default())?;
                auth.nkey = Some(key.public_key());
                auth.signature = Some(sign(file, &key, nonce)?);
            }
            Self::Credentials(file) => {
                let text = file.text()?;
                let mut parts = decorated(text.expose_secret());
                let (Some(jwt), Some(seed)) = (parts.next(), parts.next()) else {
                    return Err(file.unusable(
                        "is no credentials file, which has a JWT and a seed, each below its line \
                         -----BEGIN …-----",
                    ));
                };
                if jwt.split('.').count() != 3 {
                    return Err(
                        file.unusable("holds no JWT below its first line -----BEGIN …-----")
                    );
                }
                let key = user_key(file, seed)?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(sign(file, &key, nonce)?);
            }
        }
        Ok(auth)
    }
}

/// async-nats takes plain strings.
fn exposed(secret: &Secret<str>) -> String {
    secret.expose_secret().to_owned()
}

/// The line below each `-----BEGIN …-----`.
fn decorated(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with("---") && line.contains("BEGIN"))?;
        lines.find(|line| !line.is_empty())
    })
}

fn user_key(file: &InFile, seed: &str) -> Result<KeyPair, Unusable> {
    // The library's errors may quote the text.
    let key = KeyPair::from_seed(seed)
        .map_err(|_| file.unusable("holds no seed of an nkey (SU…), or a damaged one"))?;
    match key.key_pair_type() {
        KeyPairType::User => Ok(key),
        other => Err(file
            .unusable(format!("holds the seed of another kind ({other:?}), not of a user (SU…)"))),
    }
}

fn sign(file: &InFile, key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, Unusable> {
    key.sign(nonce).map_err(|_| file.unusable("holds a seed that can't sign"))
}

/// Names the method, and shows no secret.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("a client without credentials"),
            Self::Password { .. } => f.write_str("the user and password in NATS_URL"),
            Self::Token(_) => f.write_str("the token in NATS_URL"),
            Self::PasswordFile { user, file } => {
                write!(f, "the user {user:?} with the password in {}", file.path.display())
            }
            Self::Nkey(file) => write!(f, "the nkey in {}", file.path.display()),
            Self::Credentials(file) => write!(f, "the credentials in {}", file.path.display()),
        }
    }
}
