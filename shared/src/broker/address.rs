//! The addresses in `NATS_URL`, and the credentials that may be in them.

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

use super::access::Access;

/// Addresses that cannot be used. Deliberately does not quote them, because they may hold a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAddress {
    #[error("is not a comma-separated list of addresses like nats://host:4222 or tls://host:4222")]
    Malformed,
    #[error("holds a password without a user")]
    NoUser,
    #[error("holds different credentials for several addresses: a cluster has the same everywhere")]
    Different,
}

/// The addresses without credentials, and the credentials that any of them held.
pub(super) fn read(text: &str) -> Result<(Vec<ServerAddr>, Option<Access>), BadAddress> {
    let mut found: Option<(String, Option<String>)> = None;
    let addresses = text.split(',').map(|address| {
        let address: ServerAddr = address.trim().parse().map_err(|_| BadAddress::Malformed)?;
        // async-nats accepts the schemes of WebSockets, and without that feature speaks plain TCP.
        if address.host().is_empty() || address.is_websocket() {
            return Err(BadAddress::Malformed);
        }
        if address.username().is_none_or(str::is_empty) && address.password().is_some() {
            return Err(BadAddress::NoUser);
        }
        if let Some(credentials) = credentials(&address) {
            if found.as_ref().is_some_and(|found| *found != credentials) {
                return Err(BadAddress::Different);
            }
            found = Some(credentials);
        }
        // At finer log levels async-nats prints addresses as they are.
        let mut url = address.into_inner();
        url.set_username("")
            .and_then(|()| url.set_password(None))
            .map_err(|()| BadAddress::Malformed)?;
        ServerAddr::from_url(url).map_err(|_| BadAddress::Malformed)
    });
    let addresses = addresses.collect::<Result<_, _>>()?;
    let access = found.map(|(user, password)| match password {
        Some(password) => Access::Password { user, password: password.into() },
        None => Access::Token(user.into()),
    });
    Ok((addresses, access))
}

/// A user and a password, or a token.
fn credentials(address: &ServerAddr) -> Option<(String, Option<String>)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decode(address.username()?), address.password().map(decode)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::ExposeSecret;

    fn one(text: &str) -> (String, Option<Access>) {
        let (addresses, access) = read(text).unwrap();
        let shown: Vec<&str> = addresses.iter().map(ServerAddr::as_url_str).collect();
        (shown.join(","), access)
    }

    #[test]
    fn credentials_are_taken_out_of_addresses() {
        let (shown, access) = one("nats://user:hunter2@a:4222, b:4333");
        assert_eq!(shown, "nats://a:4222,nats://b:4333");
        let is_it = |user: &str, password: &str, access: &Option<Access>| matches!(access, Some(Access::Password { user: u, password: p }) if u == user && p.expose_secret() == password);
        assert!(is_it("user", "hunter2", &access));
        assert!(is_it("u@x", "p:w", &one("tls://u%40x:p%3Aw@a").1));
        assert!(
            matches!(one("t0ken@a").1, Some(Access::Token(token)) if token.expose_secret() == "t0ken")
        );
        assert!(is_it("u", "p", &one("nats://u:p@a,b,nats://u:p@c").1));
        assert!(one("a,b").1.is_none());
    }

    #[test]
    fn a_bad_address_is_not_shown() {
        for bad in [
            "",
            "nats://user:hunter2@:x",
            "a,,b",
            "http://a",
            "ws://a",
            "wss://a",
            "a,wss://b",
            "nats://:hunter2@a",
            "nats://u:hunter2@a,nats://u:x@b",
            "nats://u:hunter2@a,nats://t@b",
        ] {
            let error = read(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
