//! Where the broker is, and how a process presents itself to it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

/// The broker's addresses, from a comma-separated `NATS_URL`. Shows itself without credentials.
#[derive(Clone)]
pub struct Servers(Vec<ServerAddr>);

/// An address that can't be understood; deliberately says nothing of its text, which may hold a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a comma-separated list of addresses like nats://host:4222")]
pub struct BadAddress;

impl FromStr for Servers {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let servers: Vec<ServerAddr> = text
            .split(',')
            .map(|address| address.trim().parse().map_err(|_| BadAddress))
            .collect::<Result<_, _>>()?;
        if servers.iter().any(|server| server.host().is_empty()) {
            return Err(BadAddress);
        }
        Ok(Self(servers))
    }
}

impl Servers {
    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[ServerAddr] {
        &self.0
    }

    /// Options that every Ackline process shares. `role` names the connection and its inbox
    /// prefix, so that the broker's permissions can tell the roles apart.
    #[must_use]
    pub fn options(&self, role: &str) -> ConnectOptions {
        let options = ConnectOptions::new()
            .name(format!("ackline-{role}"))
            .custom_inbox_prefix(format!("_INBOX_{}", role.to_uppercase()))
            .connection_timeout(Duration::from_secs(3))
            .ping_interval(Duration::from_secs(5));
        // async-nats does not look at the credentials of an address by itself.
        match self.credentials() {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        }
    }

    /// Connects in a role.
    ///
    /// # Errors
    /// When no address can be connected to.
    pub async fn connect(&self, role: &str) -> Result<Client, ConnectError> {
        self.options(role).connect(self.addresses()).await
    }

    /// The first user and password, or token, in the list; a cluster has the same everywhere.
    fn credentials(&self) -> Option<(String, Option<String>)> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        self.0
            .iter()
            .find_map(|server| Some((decode(server.username()?), server.password().map(decode))))
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}", server.host(), server.port())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let servers: Servers = "nats://user:hunter2@a:4222, b:4333".parse().unwrap();
        assert_eq!(servers.to_string(), "a:4222,b:4333");
        assert_eq!(format!("{servers:?}"), "a:4222,b:4333");
        assert_eq!(servers.addresses().len(), 2);
        assert_eq!(servers.credentials(), Some(("user".into(), Some("hunter2".into()))));
        let odd: Servers = "nats://u%40x:p%3Aw@a:4222".parse().unwrap();
        assert_eq!(odd.credentials(), Some(("u@x".into(), Some("p:w".into()))));
        let token: Servers = "nats://t0ken@a:4222".parse().unwrap();
        assert_eq!(token.credentials(), Some(("t0ken".into(), None)));
        let error = "nats://user:hunter2@:x".parse::<Servers>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
