//! The certificate for HTTPS, if no load balancer terminates TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Where the certificate and its key are; they are read again on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The chain, in PEM, the server's own certificate first.
    pub(super) cert: PathBuf,
    /// The private key, in PEM.
    pub(super) key: PathBuf,
}

impl TlsFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// Which file is at fault, and why. At start this is a bad setting; later, keep the current
    /// certificate.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(&self.cert)
                .and_then(Iterator::collect)
                .map_err(|error| problem("--tls-cert", &self.cert, "a certificate", &error))?;
        if chain.is_empty() {
            let nothing = pem::Error::NoItemsFound;
            return Err(problem("--tls-cert", &self.cert, "a certificate", &nothing));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| problem("--tls-key", &self.key, "a private key", &error))?;
        // The provider is named because a process may have several compiled in.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("--tls-key: {} is not the key of --tls-cert", self.key.display())
            }
            rustls::Error::General(problem) => {
                format!("--tls-key: {} can't be used: {problem}", self.key.display())
            }
            error => format!("--tls-cert: {} can't be used: {error}", self.cert.display()),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Quotes nothing of the file, which may be the key.
fn problem(setting: &str, file: &Path, wanted: &str, error: &pem::Error) -> String {
    let file = file.display();
    match error {
        pem::Error::Io(error) => format!("{setting}: {file} can't be read: {error}"),
        pem::Error::NoItemsFound => format!("{setting}: {file} holds no PEM of {wanted}"),
        _ => format!("{setting}: {file} is not sound PEM"),
    }
}
