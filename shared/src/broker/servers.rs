//! The broker's addresses, and connecting to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{AuthError, Client, ConnectOptions, ServerAddr};

use super::access::Access;
use super::failure::{NotConnected, explain};
use super::tls::Tls;

/// The broker's addresses, and the credentials for them.
#[derive(Debug, Clone)]
pub struct Servers {
    addresses: Vec<ServerAddr>,
    access: Arc<Access>,
    tls: Option<Tls>,
}

impl Servers {
    pub(super) fn new(addresses: Vec<ServerAddr>, access: Access, tls: Option<Tls>) -> Self {
        Self { addresses, access: Arc::new(access), tls }
    }

    /// How many addresses there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Options that every Ackline process shares. `role` names the connection and its inbox prefix,
    /// so that the broker's permissions can distinguish the roles.
    #[must_use]
    pub fn options(&self, role: &str) -> ConnectOptions {
        let options = match &*self.access {
            Access::Nobody => ConnectOptions::new(),
            _ => self.presenting(),
        };
        let options = options
            .name(format!("ackline-{role}"))
            .custom_inbox_prefix(format!("_INBOX_{}", role.to_uppercase()))
            .connection_timeout(Duration::from_secs(3))
            .ping_interval(Duration::from_secs(5));
        match &self.tls {
            None => options,
            Some(tls) => tls.apply(options),
        }
    }

    /// Options that read the credential files at every connection, including reconnections by
    /// async-nats.
    fn presenting(&self) -> ConnectOptions {
        let access = Arc::clone(&self.access);
        ConnectOptions::with_auth_callback(move |nonce| {
            let access = Arc::clone(&access);
            async move {
                let presented = tokio::task::spawn_blocking(move || access.present(&nonce)).await;
                presented.map_err(AuthError::new)?.map_err(|unusable| {
                    // On a reconnection async-nats does not report the reason.
                    tracing::warn!("{unusable}");
                    AuthError::new(unusable)
                })
            }
        })
    }

    /// Connects in a role.
    ///
    /// # Errors
    /// [`NotConnected`]: show it, and retry only if nobody waits.
    pub async fn connect(&self, role: &str) -> Result<Client, NotConnected> {
        self.connect_with(self.options(role)).await
    }

    /// Connects with options that began as [`Servers::options`].
    ///
    /// # Errors
    /// As [`Servers::connect`].
    pub async fn connect_with(&self, options: ConnectOptions) -> Result<Client, NotConnected> {
        let (tls, access) = (self.tls.clone(), Arc::clone(&self.access));
        let looking = tokio::task::spawn_blocking(move || {
            tls.iter().flat_map(Tls::problems).chain(access.present(&[]).err()).next()
        });
        if let Ok(Some(unusable)) = looking.await {
            return Err(NotConnected(unusable.to_string()));
        }
        let connected = options.connect(self.addresses.as_slice()).await;
        connected.map_err(|error| explain(&error, &self.access, self.tls.as_ref()))
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.addresses.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}", server.host(), server.port())?;
        }
        Ok(())
    }
}
