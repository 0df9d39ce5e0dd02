//! The exporter: OpenTelemetry's SDK, whose thread sends what has ended in batches. Its queue is
//! bounded (2048 spans, `OTEL_BSP_MAX_QUEUE_SIZE`); what finds it full is dropped.

use std::fmt;
use std::time::Duration;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt,
    TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider,
    ShouldSample, Span,
};
use tokio::runtime::Handle;

pub(super) use super::client::Client;
use super::client::OnRuntime;
use super::span::Value;
use super::{Kind, NewSpan, TraceContext};

/// The callbacks of the largest batch: each is a link of its span.
const MAX_LINKS: u32 = 10_256;

#[derive(Clone)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span of the SDK's.
#[derive(Debug)]
pub(super) struct Recording(Span);

impl Exporter {
    /// Starts the thread that sends to `client`'s endpoint, on behalf of a service of that name if
    /// the environment gives no other.
    pub(super) fn new(client: Client, service: &'static str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(client.endpoint())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(client.timeout())
            .with_http_client(OnRuntime(client, Handle::current()))
            .build()?;
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_detector(Box::new(EnvResourceDetector::new()));
        // The detector knows OTEL_RESOURCE_ATTRIBUTES only.
        let resource = match std::env::var("OTEL_SERVICE_NAME") {
            Ok(name) if !name.is_empty() => resource.with_service_name(name),
            _ => resource,
        };
        let mut builder = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).build())
            .with_sampler(Linked(Config::default().sampler))
            .with_resource(resource.build());
        if std::env::var_os("OTEL_SPAN_LINK_COUNT_LIMIT").is_none() {
            builder = builder.with_max_links_per_span(MAX_LINKS);
        }
        let provider = builder.build();
        let scope =
            InstrumentationScope::builder("ackline").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = provider.tracer_with_scope(scope.build());
        Ok(Self { provider, tracer })
    }

    pub(super) fn start(&self, new: NewSpan<'_>) -> Recording {
        let NewSpan { name, kind, began, parent, links } = new;
        let parent = match parent {
            Some(parent) => Context::new().with_remote_span_context(to_sdk(&parent)),
            None => Context::new(),
        };
        let mut builder = SpanBuilder::from_name(name)
            .with_kind(match kind {
                Kind::Server => SpanKind::Server,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
                Kind::Internal => SpanKind::Internal,
            })
            .with_start_time(began);
        if !links.is_empty() {
            let links = links.iter().map(|link| Link::with_context(to_sdk(link)));
            builder = builder.with_links(links.collect());
        }
        Recording(self.tracer.build_with_context(builder, &parent))
    }

    pub(super) fn finish(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

impl Recording {
    pub(super) fn context(&self) -> Option<TraceContext> {
        let context = self.0.span_context();
        TraceContext::new(
            context.trace_id().to_bytes(),
            context.span_id().to_bytes(),
            context.trace_flags().to_u8(),
        )
    }

    pub(super) fn is_recording(&self) -> bool {
        self.0.is_recording()
    }

    pub(super) fn set(&mut self, key: &'static str, value: Value) {
        self.0.set_attribute(match value {
            Value::Text(text) => KeyValue::new(key, text),
            Value::Number(number) => KeyValue::new(key, number),
        });
    }

    pub(super) fn link(&mut self, other: TraceContext) {
        self.0.add_link(to_sdk(&other), Vec::new());
    }

    pub(super) fn fail(&mut self, reason: &'static str) {
        self.0.set_status(Status::error(reason));
    }
}

fn to_sdk(context: &TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace()),
        SpanId::from_bytes(context.span()),
        TraceFlags::new(context.flags()),
        true,
        TraceState::NONE,
    )
}

/// Samples as the environment says; what begins a trace of its own but is linked to others is
/// sampled when a child of any of those would be. Otherwise few of the sampled callbacks would have
/// their batch sampled too.
#[derive(Debug, Clone)]
struct Linked(Box<dyn ShouldSample>);

impl ShouldSample for Linked {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sample = |parent: Option<&Context>, trace_id| {
            self.0.should_sample(parent, trace_id, name, kind, attributes, links)
        };
        if links.is_empty() || parent.is_some_and(|parent| parent.span().span_context().is_valid())
        {
            return sample(parent, trace_id);
        }
        let of_link = |link: &Link| {
            let context = Context::new().with_remote_span_context(link.span_context.clone());
            sample(Some(&context), link.span_context.trace_id())
        };
        let sampled =
            |result: &SamplingResult| result.decision == SamplingDecision::RecordAndSample;
        links.iter().map(of_link).find(sampled).unwrap_or(SamplingResult {
            decision: SamplingDecision::Drop,
            attributes: Vec::new(),
            trace_state: TraceState::NONE,
        })
    }
}
