//! The spans of a process: OpenTelemetry's SDK, whose thread sends what has ended in batches. Its
//! queue is bounded (2048 spans, `OTEL_BSP_MAX_QUEUE_SIZE`); what finds it full is dropped.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, TraceId, TraceState, Tracer,
    TracerProvider,
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

use super::TraceContext;
use super::client::{Client, OnRuntime};

/// The most callbacks in a batch: each is a link of its span.
const MAX_LINKS: u32 = 10_256;
/// How long flushing the last spans may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where spans go: nowhere, unless an endpoint is configured. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporter>);

#[derive(Debug, Clone)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Spans that go nowhere.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the thread that exports to `client`'s endpoint, under this service name if the
    /// environment gives no other.
    pub(super) fn to(client: Client, service: &'static str) -> Result<Self, ExporterBuildError> {
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
        Ok(Self(Some(Exporter { provider, tracer })))
    }

    /// The time by this machine's clock, for a span that may begin now; none if spans are not
    /// exported. Only spans use it, and they decide nothing.
    #[must_use]
    pub fn now(&self) -> Option<SystemTime> {
        #[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
        self.0.as_ref().map(|_| SystemTime::now())
    }

    /// Begins a span below `parent`, or a new trace. Returns none, without calling `describe`, if
    /// spans are not exported. The span ends when it is dropped.
    pub fn span(
        &self,
        parent: Option<TraceContext>,
        describe: impl FnOnce() -> SpanBuilder,
    ) -> Option<Span> {
        let exporter = self.0.as_ref()?;
        let context = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context((&parent).into())
        });
        Some(exporter.tracer.build_with_context(describe(), &context))
    }

    /// Flushes finished spans, for at most two seconds. Spans that end later are lost.
    pub async fn finish(&self) {
        let Some(Exporter { provider, .. }) = self.0.clone() else { return };
        let leaving = tokio::task::spawn_blocking(move || {
            if let Err(error) = provider.shutdown_with_timeout(FLUSH_LIMIT) {
                tracing::warn!(%error, "the last spans were not exported");
            }
        });
        // A panic there does not matter to a process that ends.
        let _ = leaving.await;
    }
}

/// Marks a span as failed, for one of a few reasons.
pub fn fail(span: &mut Span, reason: &'static str) {
    span.set_attribute(KeyValue::new("error.type", reason));
    span.set_status(Status::error(reason));
}

impl TraceContext {
    /// The context that names this span as the parent.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        let context = span.span_context();
        Self::new(
            context.trace_id().to_bytes(),
            context.span_id().to_bytes(),
            context.trace_flags().to_u8(),
        )
    }
}

/// Samples as the environment says. A span that begins its own trace but is linked to others is
/// sampled if a child of any of those would be; otherwise the batch of a sampled callback would
/// rarely be sampled.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_spans_go_nowhere_none_is_begun() {
        let traces = Traces::off();
        assert!(traces.now().is_none());
        assert!(traces.span(None, || panic!("not even described")).is_none());
        traces.finish().await;
    }
}
