//! Tells what was decided of a callback: a log line, and, where they are exported, the span of the
//! request and that of its way into the stream.
//!
//! Accepted callbacks are logged at `debug`: `RUST_LOG=info,ingress::decision_log=debug`.

use std::time::SystemTime;

use shared::partition::Partition;
use shared::trace::{Kind, NewSpan, Span, TraceContext, TraceId, Traces};

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

/// A callback on its way into the stream.
#[derive(Debug)]
pub(crate) struct Publish {
    /// That of the request, as long as there is no span.
    parent: Option<TraceContext>,
    span: Option<Span>,
}

impl DecisionLog {
    pub(crate) fn new(traces: Traces, route: &str) -> Self {
        Self { traces, route: route.to_owned() }
    }

    /// The time, if anything will have begun now.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        self.traces.now()
    }

    /// A request that `began` then and goes on in `parent`'s trace.
    pub(crate) fn request(
        &self,
        parent: Option<TraceContext>,
        began: Option<SystemTime>,
    ) -> Request<'_> {
        let span = began.and_then(|began| {
            let mut span = self.traces.span(|| NewSpan {
                name: "receive callback".into(),
                kind: Kind::Server,
                began,
                parent,
                links: &[],
            })?;
            if span.is_recording() {
                span.set("http.request.method", "POST");
                span.set("http.route", self.route.clone());
            }
            Some(span)
        });
        Request { log: self, parent, span }
    }
}

impl Request<'_> {
    /// The context that what follows from the request goes on in: the sender's, where there is no
    /// span in between.
    fn context(&self) -> Option<TraceContext> {
        self.span.as_ref().and_then(Span::context).or(self.parent)
    }

    /// Its callback is for the stream.
    pub(crate) fn publish(&self, partition: Partition, job: &str) -> Publish {
        let parent = self.context();
        let span = self.log.now().and_then(|began| {
            let mut span = self.log.traces.span(|| NewSpan {
                name: "publish callback".into(),
                kind: Kind::Producer,
                began,
                parent,
                links: &[],
            })?;
            if span.is_recording() {
                span.set("messaging.system", "nats");
                span.set("messaging.operation.type", "send");
                span.set("messaging.destination.name", partition.stream());
                span.set("messaging.destination.partition.id", partition.to_string());
                span.set("ackline.job.id", job.to_owned());
            }
            Some(span)
        });
        Publish { parent, span }
    }

    /// It is signed, and no callback.
    pub(crate) fn refused(self, key: &str, refusal: Refusal) {
        let reason = refusal.reason();
        let trace_id = trace_id(self.context());
        tracing::info!(key, reason, trace_id, "refused a signed body: {reason}");
        self.answered(Err(refusal));
    }

    fn answered(mut self, outcome: Result<Stored, Refusal>) {
        let Some(span) = &mut self.span else { return };
        let status = outcome.map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
        span.set("http.response.status_code", status);
        // What the sender did wrong is no failure of the server's.
        match outcome {
            Err(refusal) if status >= 500 => span.fail(refusal.reason()),
            Err(refusal) => span.set("ackline.reason", refusal.reason()),
            Ok(_) => {}
        }
    }
}

impl Publish {
    /// What the message says for the worker.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.span.as_ref().and_then(Span::context).or(self.parent)
    }

    /// The stream has it or not, or nobody knows, and the request is answered.
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
                    trace_id,
                    "not confirmed: a callback of job {job}"
                );
            }
        }
        // It ends here, before that of the request.
        if let Some(mut span) = self.span {
            match outcome {
                Ok(Stored { seq, idx }) => {
                    span.set("ackline.stream.sequence", i64::try_from(seq).unwrap_or(i64::MAX));
                    span.set("ackline.bundle.index", i64::try_from(idx).unwrap_or(i64::MAX));
                }
                Err(refusal) => span.fail(refusal.reason()),
            }
        }
        request.answered(outcome);
    }
}

fn trace_id(context: Option<TraceContext>) -> Option<tracing::field::DisplayValue<TraceId>> {
    context.map(|context| tracing::field::display(context.trace_id()))
}
