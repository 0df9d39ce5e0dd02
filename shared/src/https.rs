//! An HTTP and HTTPS client.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// An HTTP/1.1 client that keeps its connections. It has no timeout.
pub type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for this URL. For HTTPS it trusts the authorities in this file, or else the machine's,
/// or those that `SSL_CERT_FILE` or `SSL_CERT_DIR` name.
///
/// # Errors
/// Why no authority can be trusted, as a text that follows the name of the setting with the URL.
pub fn client(address: &Uri, authorities: Option<&Path>) -> Result<HttpsClient, String> {
    let roots = match address.scheme_str() {
        Some("https") => roots(authorities)?,
        _ => RootCertStore::empty(),
    };
    // The provider is named because a process may have several compiled in.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore, String> {
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
                Err(error) => (Vec::new(), Some(format!("{}: {error}", file.display()))),
            }
        }
    };
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        return Err(format!("https needs certificate authorities, and none was found{why}"));
    }
    Ok(roots)
}
