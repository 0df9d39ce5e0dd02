//! Sends spans to their endpoint, over HTTP/1.1 and with the TLS of everything else here.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::https::{self, HttpsClient};

/// How much of an answer is read; its content does not matter.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long a failure is not logged again.
const SILENCE: Duration = Duration::from_secs(300);

/// An endpoint, and the connections to it.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Uri,
    timeout: Duration,
    http: HttpsClient,
    trouble: Mutex<Trouble>,
}

/// Whether exports fail, and when that was last logged.
#[derive(Debug, Default)]
struct Trouble {
    fails: bool,
    said: Option<Instant>,
}

impl Client {
    /// A client that is not connected yet. `endpoint` has a scheme, http or https, and a host;
    /// `authorities` are trusted instead of the machine's.
    pub(super) fn new(
        endpoint: Uri,
        timeout: Duration,
        authorities: Option<&Path>,
    ) -> Result<Self, String> {
        let http = https::client(&endpoint, authorities)?;
        Ok(Self(Arc::new(Inner { endpoint, timeout, http, trouble: Mutex::default() })))
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
        let inner = Arc::clone(&self.0.0);
        let exchange = async move {
            let outcome = match timeout(inner.timeout, inner.exchange(request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {:?}", inner.timeout).into()),
            };
            inner.note(&outcome);
            outcome
        };
        self.1.spawn(exchange).await?
    }
}

impl Inner {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = self.http.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Logs that exports fail, and when they no longer do; both rarely.
    fn note(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let why = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(whole(&**error)),
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

/// An error with its sources.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        text = format!("{text}: {error}");
        behind = error.source();
    }
    text
}
