//! TLS for those who ask others over HTTPS.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Believes the authorities in this file, or else the machine's, or those that `SSL_CERT_FILE` or
/// `SSL_CERT_DIR` name.
///
/// # Errors
/// When there is none that can be believed, and why.
pub fn connector(authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let (certificates, why) = match authorities {
        None => {
            let found = rustls_native_certs::load_native_certs();
            (found.certs, found.errors.first().map(ToString::to_string))
        }
        Some(file) => {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
            let read: Result<Vec<_>, _> = read;
            match read {
                Ok(certificates) => (certificates, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            }
        }
    };
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        return Err(format!("https needs certificate authorities, and none was found{why}"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
