//! The certificate for HTTPS, if no load balancer terminates TLS.

use std::sync::Arc;

use shared::settings::{InFile, Unusable};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{self, ServerConfig};

/// Where the certificate and its key are; they are read again on SIGHUP.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    /// The chain, in PEM, the server's own certificate first.
    pub(super) cert: InFile,
    /// The private key, in PEM.
    pub(super) key: InFile,
}

impl TlsFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// Which file is at fault, and why. At start this is a bad setting; later, keep the current
    /// certificate.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, Unusable> {
        let chain = self.cert.pem("certificate")?;
        let mut keys = self.key.pem("private key")?;
        // The provider is named because a process may have several compiled in.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.cert.unusable(error))?
            .with_no_client_auth()
            .with_single_cert(chain, keys.swap_remove(0));
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => self.key.unusable("is not the key of --tls-cert"),
            rustls::Error::General(problem) => {
                self.key.unusable(format!("can't be used: {problem}"))
            }
            error => self.cert.unusable(format!("can't be used: {error}")),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
