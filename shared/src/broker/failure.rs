//! Why there is no connection, for people.

use std::error::Error;
use std::{fmt, io};

use async_nats::rustls::{self, CertificateError};
use async_nats::{ConnectError, ConnectErrorKind};

use super::access::Access;
use super::tls::Tls;

/// Why no server could be reached, and what to do about it. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotConnected(pub(super) String);

/// What went wrong, and what to do about it.
pub(super) fn explain(error: &ConnectError, access: &Access, tls: Option<&Tls>) -> NotConnected {
    let source = error.source();
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let inner = io.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref());
    NotConnected(match (error.kind(), inner, io) {
        (ConnectErrorKind::AuthorizationViolation, ..) => {
            format!("authorization violation: the server does not let in {access}")
        }
        (_, Some(inner), _) => explain_tls(inner, tls),
        _ if error.to_string().contains("expected INFO, got nothing") => {
            "the server ended the connection without a word: it may expect TLS first \
             (handshake_first: true): set NATS_TLS_FIRST=true; or it is no NATS server"
                .to_owned()
        }
        (_, None, Some(io)) if tls.is_some() && is_end(io) => ended(io, tls),
        // The end of a stream is a text in async-nats.
        (ConnectErrorKind::Io, None, None)
            if tls.is_some() && error.to_string().ends_with(": broken pipe") =>
        {
            ended("broken pipe", tls)
        }
        _ => error.to_string(),
    })
}

fn ended(how: impl fmt::Display, tls: Option<&Tls>) -> String {
    format!(
        "the server ended the connection within TLS ({how}): it may not speak TLS on this port, \
         or {}",
        demands(tls)
    )
}

fn explain_tls(error: &rustls::Error, tls: Option<&Tls>) -> String {
    match error {
        // The signature is bad if an authority of the same name issued it.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            let authorities = tls.and_then(|tls| tls.authorities.as_ref());
            let believed = authorities.map_or_else(
                || "the system believes: set NATS_CA_FILE if it is your own".to_owned(),
                |file| format!("is in {} (NATS_CA_FILE)", file.path.display()),
            );
            format!("the server's certificate comes from no authority that {believed}")
        }
        rustls::Error::InvalidCertificate(problem) => {
            format!("the server's certificate can't be believed: {problem}")
        }
        rustls::Error::AlertReceived(alert) => {
            format!("the server refuses TLS ({alert:?}): {}", demands(tls))
        }
        rustls::Error::InvalidMessage(_) if tls.is_some_and(|tls| tls.is_first) => {
            "the server does not begin with TLS: leave NATS_TLS_FIRST out, or set handshake_first: true \
             in its tls block"
                .to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port, and TLS is demanded by tls:// in \
             NATS_URL, NATS_CA_FILE or NATS_CERT_FILE"
                .to_owned()
        }
        other => format!("TLS: {other}"),
    }
}

fn demands(tls: Option<&Tls>) -> String {
    match tls.and_then(|tls| tls.client.as_ref()) {
        None => "it may demand a client certificate: set NATS_CERT_FILE and NATS_KEY_FILE".into(),
        Some((certificate, _)) => {
            format!("it may not believe the certificate in {}", certificate.path.display())
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
