//! TLS: which authorities to trust, and which certificate to present.
//!
//! async-nats reads the files itself at every connection. It reports neither which file it could
//! not use, nor whether the key fits the certificate, so they are checked here first.

use std::sync::Arc;

use async_nats::ConnectOptions;
use async_nats::rustls::crypto::ring;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::sign::CertifiedKey;
use async_nats::rustls::{Error, InconsistentKeys, RootCertStore};

use crate::settings::{InFile, Unusable};

/// TLS is required, with these files.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls {
    /// Trusted instead of the system's authorities.
    pub(super) authorities: Option<InFile>,
    /// A certificate and its key.
    pub(super) client: Option<(InFile, InFile)>,
    /// Whether the client speaks first.
    pub(super) is_first: bool,
}

impl Tls {
    /// A server without TLS is refused: async-nats sends it nothing but the start of a handshake.
    pub(super) fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        // The list of a cluster's other servers arrives before TLS, from whoever answers.
        let mut options = options.require_tls(true).ignore_discovered_servers();
        if self.is_first {
            options = options.tls_first();
        }
        if let Some(file) = &self.authorities {
            options = options.add_root_certificates(file.path.clone());
        }
        if let Some((certificate, key)) = &self.client {
            options = options.add_client_certificate(certificate.path.clone(), key.path.clone());
        }
        options
    }

    /// What is wrong with the files at this moment.
    pub(super) fn problems(&self) -> Vec<Unusable> {
        let authorities = self.authorities.as_ref().and_then(|file| check_authorities(file).err());
        let client = self.client.as_ref();
        let client =
            client.map_or_else(Vec::new, |(certificate, key)| check_client(certificate, key));
        authorities.into_iter().chain(client).collect()
    }
}

fn check_authorities(file: &InFile) -> Result<(), Unusable> {
    for certificate in file.pem::<CertificateDer<'static>>("certificate")? {
        RootCertStore::empty().add(certificate).map_err(|error| {
            file.unusable(format!("holds a certificate that can't be used: {error}"))
        })?;
    }
    Ok(())
}

fn check_client(certificate: &InFile, key: &InFile) -> Vec<Unusable> {
    let chain = certificate.pem::<CertificateDer<'static>>("certificate");
    let secret = key.pem::<PrivateKeyDer<'static>>("private key");
    let (chain, secret) = match (chain, secret) {
        (Ok(chain), Ok(secret)) => (chain, secret),
        (chain, secret) => return chain.err().into_iter().chain(secret.err()).collect(),
    };
    let Some(secret) = secret.into_iter().next() else { return Vec::new() };
    let provider = Arc::new(ring::default_provider());
    match CertifiedKey::from_der(chain, secret, &provider) {
        Ok(_) => Vec::new(),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            vec![key.unusable(format!("is not the key of {}", certificate.path.display()))]
        }
        Err(Error::InvalidCertificate(error)) => {
            vec![certificate.unusable(format!("holds a certificate that can't be used: {error}"))]
        }
        Err(_) => vec![key.unusable("holds a key that can't be used: it may be encrypted")],
    }
}
