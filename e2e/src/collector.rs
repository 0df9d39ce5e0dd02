//! A real OpenTelemetry collector, and what it passes on.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::{Request, Response, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as proto;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use shared::listener;
use shared::shutdown::Leaving;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::certificates::Issued;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::stack::poll;
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A span as it was exported, with its ids in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The service's name.
    pub service: String,
    /// The name.
    pub name: String,
    /// What it is of.
    pub kind: SpanKind,
    /// The trace.
    pub trace: String,
    /// Its id.
    pub id: String,
    /// The id of its parent; empty where the trace begins.
    pub parent: String,
    /// The traces and ids of what it links.
    pub links: Vec<(String, String)>,
    /// The attributes, as texts.
    pub attributes: BTreeMap<String, String>,
    /// Whether it says that something failed.
    pub is_error: bool,
    /// From its beginning to its end, in nanoseconds since 1970.
    pub nanos: (u64, u64),
}

impl Span {
    /// An attribute; empty if it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// An OTLP endpoint within this process. It keeps what it is sent until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    spans: Spans,
    _serving: DropGuard,
}

type Spans = Arc<Mutex<Vec<Span>>>;

impl Receiver {
    /// Listens on any free port, with TLS if it is given a certificate.
    pub async fn start(tls: Option<&Issued>) -> Result<Self> {
        let tls = tls.map(server).transpose()?.map(|server| watch::channel(server).1);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Spans::default();
        let ended = CancellationToken::new();
        let leaving = Leaving::after(&ended, Duration::ZERO);
        let handler = {
            let spans = Arc::clone(&spans);
            move |request| take(request, Arc::clone(&spans))
        };
        let limits = shared::ops::LIMITS;
        tokio::spawn(async move {
            listener::serve("spans", listener, tls, limits, handler, leaving).await;
        });
        Ok(Self { address, spans, _serving: ended.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was sent so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A collector that passes on whatever it takes to a [`Receiver`], in its own words: so what
/// arrives there is what it has understood.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    endpoint: String,
    receiver: Receiver,
    _ports: [Port; 2],
}

impl Collector {
    /// Starts it, with its files in this directory.
    pub async fn start(dir: &Path) -> Result<Self> {
        let receiver = Receiver::start(None).await?;
        let ports = [Port::lease()?, Port::lease()?];
        let [http, grpc] = ports.each_ref().map(|port| port.address().to_string());
        let to = format!("http://{}", receiver.address());
        let pid_file = dir.join("collector.pid").display().to_string();
        let process = Program::new("collector", tools::rotel()?, dir)
            .args(["start", "--exporter", "otlp", "--otlp-exporter-protocol", "http"])
            .args(["--otlp-exporter-endpoint", &to])
            .args(["--otlp-exporter-batch-timeout", "20ms", "--pid-file", &pid_file])
            .args(["--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc])
            .start()?;
        let listens = poll(START_LIMIT, async || TcpStream::connect(&http).await.ok()).await;
        ensure!(listens.is_some(), "the collector does not listen\n{}", process.log().tail(20));
        let endpoint = format!("http://{http}");
        Ok(Self { process, endpoint, receiver, _ports: ports })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is for who exports to it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it has taken and passed on so far.
    pub fn spans(&self) -> Vec<Span> {
        self.receiver.spans()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn server(issued: &Issued) -> Result<Arc<ServerConfig>> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&issued.certificate).and_then(Iterator::collect);
    let key = PrivateKeyDer::from_pem_file(&issued.key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, key)?;
    Ok(Arc::new(config))
}

async fn take(request: Request<Incoming>, spans: Spans) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match decode(request).await {
        Ok(exported) => {
            let exported = exported.resource_spans.into_iter().flat_map(read);
            spans.lock().unwrap_or_else(PoisonError::into_inner).extend(exported);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

async fn decode(request: Request<Incoming>) -> Result<ExportTraceServiceRequest> {
    let (head, body) = request.into_parts();
    ensure!(head.uri.path() == "/v1/traces", "no traces");
    ensure!(
        head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf"),
        "no protobuf"
    );
    let mut body = body.collect().await?.to_bytes().to_vec();
    // The collector packs what it sends, whatever it is told.
    if head.headers.contains_key(CONTENT_ENCODING) {
        let packed = std::mem::take(&mut body);
        GzDecoder::new(packed.as_slice()).read_to_end(&mut body)?;
    }
    Ok(ExportTraceServiceRequest::decode(body.as_slice())?)
}

fn read(exported: proto::ResourceSpans) -> impl Iterator<Item = Span> {
    let attributes = exported.resource.map(|resource| resource.attributes).unwrap_or_default();
    let service = texts(attributes).remove("service.name").unwrap_or_default();
    let spans = exported.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |span| Span {
        service: service.clone(),
        kind: span.kind(),
        name: span.name,
        trace: hex::encode(span.trace_id),
        id: hex::encode(span.span_id),
        parent: hex::encode(span.parent_span_id),
        links: span
            .links
            .into_iter()
            .map(|link| (hex::encode(link.trace_id), hex::encode(link.span_id)))
            .collect(),
        attributes: texts(span.attributes),
        is_error: span
            .status
            .is_some_and(|status| status.code() == proto::status::StatusCode::Error),
        nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
    })
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value).unwrap_or_default())).collect()
}
