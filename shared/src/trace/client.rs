//! Sends spans to their endpoint: HTTP/1.1 over one connection that is kept, with the TLS of
//! everything else here. The SDK's own clients would bring another one along.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::tls;

/// What is read of an answer: nothing in it is of interest.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long a failure is not spoken of again.
const SILENCE: Duration = Duration::from_secs(300);

/// An endpoint, and the connection to it.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    endpoint: Uri,
    host: HeaderValue,
    timeout: Duration,
    /// For https.
    tls: Option<TlsConnector>,
    connection: tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>,
    trouble: Mutex<Trouble>,
}

/// Whether exports fail, and when that was last said.
#[derive(Debug, Default)]
struct Trouble {
    fails: bool,
    said: Option<Instant>,
}

// The SDK prints its clients, and rustls more than anybody wants to read.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.endpoint)
    }
}

impl Client {
    /// A client that is not connected yet. `endpoint` has a scheme, http or https, and a host;
    /// `authorities` are believed instead of the machine's.
    pub(super) fn new(
        endpoint: Uri,
        timeout: Duration,
        authorities: Option<&Path>,
    ) -> Result<Self, String> {
        let is_https = endpoint.scheme_str() == Some("https");
        let tls = is_https.then(|| tls::connector(authorities)).transpose()?;
        let authority = endpoint.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
        let (connection, trouble) = Default::default();
        Ok(Self(Arc::new(Shared { endpoint, host, timeout, tls, connection, trouble })))
    }

    pub(super) fn endpoint(&self) -> String {
        self.0.endpoint.to_string()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }
}

/// The SDK's thread, which has no runtime, calls this and waits.
#[derive(Debug)]
pub(super) struct OnRuntime(pub(super) Client, pub(super) Handle);

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let shared = Arc::clone(&self.0.0);
        let exchange = async move {
            let outcome = match timeout(shared.timeout, shared.exchange(request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {:?}", shared.timeout).into()),
            };
            shared.note(&outcome);
            outcome
        };
        self.1.spawn(exchange).await?
    }
}

impl Shared {
    /// Sends a request on the connection that is there, or on a new one.
    async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
        request.headers_mut().insert(HOST, self.host.clone());
        let mut kept = self.connection.lock().await;
        let usable = match kept.as_mut() {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        // Whatever becomes of this, nothing half done is kept.
        let mut connection = match kept.take() {
            Some(connection) if usable => connection,
            _ => self.connect().await?,
        };
        let answer = connection.send_request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
        *kept = Some(connection);
        Ok(Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let host = self.endpoint.host().unwrap_or_default();
        // The brackets of an IPv6 address are the URL's.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let default = if self.tls.is_some() { 443 } else { 80 };
        let stream =
            TcpStream::connect((host, self.endpoint.port_u16().unwrap_or(default))).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                handshake(tls.connect(name, stream).await?).await
            }
        }
    }

    /// Says that exports fail, and when they no longer do; both seldom.
    fn note(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let why = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = std::mem::replace(&mut trouble.fails, why.is_some());
        match why {
            Some(why) if trouble.said.is_none_or(|said| said.elapsed() >= SILENCE) => {
                trouble.said = Some(Instant::now());
                let endpoint = &self.endpoint;
                tracing::warn!(%endpoint, "spans are not exported, and lost: {why}");
            }
            None if failed => tracing::info!(endpoint = %self.endpoint, "spans are exported again"),
            _ => {}
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, HttpError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach the caller through the request; it ends with the sender.
    tokio::spawn(connection);
    Ok(sender)
}
