//! Reports what was decided about a callback: a log line and, if they are exported, the span of the
//! request and that of its publishing.
//!
//! Accepted callbacks are logged at `debug`: `RUST_LOG=info,ingress::decision_log=debug`.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind};
use shared::partition::Partition;
use shared::trace::{self, Span, TraceContext, TraceId, Traces};

use crate::answer::Refusal;
use crate::publish::Stored;

/// What the spans of all requests share.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    traces: Traces,
    route: String,
}

/// A signed request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    log: &'a DecisionLog,
    parent: Option<TraceContext>,
    span: Option<Span>,
}

/// A callback that is being published.
#[derive(Debug)]
pub(crate) struct Publish {
    /// The context of the request, if there is no span.
    parent: Option<TraceContext>,
    span: Option<Span>,
}

impl DecisionLog {
    pub(crate) fn new(traces: Traces, route: &str) -> Self {
        Self { traces, route: route.to_owned() }
    }

    /// The time, if a span may begin now.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        self.traces.now()
    }

    /// A request that `began` then and continues `parent`'s trace.
    pub(crate) fn request(
        &self,
        parent: Option<TraceContext>,
        began: Option<SystemTime>,
    ) -> Request<'_> {
        let span = self.span("receive callback", SpanKind::Server, parent, began, || {
            vec![
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", self.route.clone()),
            ]
        });
        Request { log: self, parent, span }
    }

    /// A span that `began` then, if spans are exported.
    fn span(
        &self,
        name: &'static str,
        kind: SpanKind,
        parent: Option<TraceContext>,
        began: Option<SystemTime>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<Span> {
        let began = began?;
        let describe = || SpanBuilder::from_name(name).with_kind(kind).with_start_time(began);
        let mut span = self.traces.span(parent, describe)?;
        if span.is_recording() {
            span.set_attributes(attributes());
        }
        Some(span)
    }
}

impl Request<'_> {
    /// The context for what follows the request: the sender's, if there is no span in between.
    fn context(&self) -> Option<TraceContext> {
        self.span.as_ref().and_then(TraceContext::of).or(self.parent)
    }

    /// Begins publishing its callback.
    pub(crate) fn publish(&self, partition: Partition, job: &str) -> Publish {
        let parent = self.context();
        let began = self.log.now();
        let span = self.log.span("publish callback", SpanKind::Producer, parent, began, || {
            vec![
                KeyValue::new("messaging.system", "nats"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", partition.stream()),
                KeyValue::new("messaging.destination.partition.id", partition.to_string()),
                KeyValue::new("ackline.job.id", job.to_owned()),
            ]
        });
        Publish { parent, span }
    }

    /// It is signed, but not a callback.
    pub(crate) fn refused(self, key: &str, refusal: Refusal) {
        let reason = refusal.reason();
        let trace_id = trace_id(self.context());
        tracing::info!(
            key,
            reason,
            code = refusal.code(),
            trace_id,
            "refused a signed body: {reason}"
        );
        self.answered(Err(refusal));
    }

    fn answered(mut self, outcome: Result<Stored, Refusal>) {
        let Some(span) = &mut self.span else { return };
        let status = outcome.map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        // A sender's mistake is not a failure of the server.
        match outcome {
            Err(refusal) if status >= 500 => trace::fail(span, refusal.reason()),
            Err(refusal) => span.set_attribute(KeyValue::new("ackline.reason", refusal.reason())),
            Ok(_) => {}
        }
    }
}

impl Publish {
    /// The context that the message carries to the worker.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.span.as_ref().and_then(TraceContext::of).or(self.parent)
    }

    /// The outcome is known, or known to be unknown, and the request is answered.
    pub(crate) fn ended(
        self,
        request: Request<'_>,
        partition: Partition,
        job: &str,
        outcome: Result<Stored, Refusal>,
    ) {
        let trace_id = trace_id(self.context());
        match outcome {
            Ok(Stored { seq, idx }) => {
                tracing::debug!(job, %partition, seq, idx, trace_id, outcome = "accepted", "decided");
            }
            Err(refusal) => {
                let reason = refusal.reason();
                tracing::info!(
                    job,
                    %partition,
                    reason,
                    code = refusal.code(),
                    trace_id,
                    "not confirmed: a callback of job {job}"
                );
            }
        }
        // It ends here, before that of the request.
        if let Some(mut span) = self.span {
            match outcome {
                Ok(Stored { seq, idx }) => {
                    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                    span.set_attributes([
                        KeyValue::new("ackline.stream.sequence", whole(seq)),
                        KeyValue::new("ackline.bundle.index", whole(idx as u64)),
                    ]);
                }
                Err(refusal) => trace::fail(&mut span, refusal.reason()),
            }
        }
        request.answered(outcome);
    }
}

fn trace_id(context: Option<TraceContext>) -> Option<tracing::field::DisplayValue<TraceId>> {
    context.map(|context| tracing::field::display(context.trace_id()))
}
