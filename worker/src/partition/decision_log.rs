//! Reports the decisions of a batch after its commit, because a rolled-back decision does not
//! count. One log line for each decision, and the spans of traced callbacks.
//!
//! At 20 000 callbacks a second a line for each would cost more than it is worth. So the decisions
//! that people look for are logged by default, and the rest at `debug`:
//! `RUST_LOG=info,worker::partition::decision_log=debug`.

use std::collections::HashMap;
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind};
use shared::partition::Partition;
use shared::trace::{self, Span, TraceContext, Traces};
use tracing::Level;

use super::prefetch::Received;
use crate::apply::Applied;
use crate::rules::decision::{Decision, Effect, Reason};
use crate::rules::event::{Body, Content, Incoming, Position};
use crate::rules::transition;

/// Reports a committed batch. `began` is when its first statement began, which is known only if
/// spans are exported.
pub(crate) fn tell(
    traces: &Traces,
    partition: Partition,
    began: Option<SystemTime>,
    messages: &[Received],
    incoming: &[Incoming],
    applied: &Applied,
) {
    let logs_all = tracing::enabled!(Level::DEBUG);
    let logs_some = logs_all || applied.effects.keys().any(|effect| effect.is_noted());
    let is_traced = began.is_some() && incoming.iter().any(|entry| entry.trace.is_some());
    if !logs_some && !is_traced {
        return;
    }
    // A callback that was tried again may be from the same batch, which knows its trace.
    let entries = applied.redriven.iter().chain(incoming);
    let entries: HashMap<Position, &Incoming> =
        entries.map(|entry| (entry.position, entry)).collect();
    let entry = |decision: &Decision| entries.get(&decision.position).copied();
    if logs_some {
        for decision in &applied.decisions {
            log(partition, decision, entry(decision));
        }
    }
    if let Some(began) = began.filter(|_| is_traced) {
        let read_at: HashMap<i64, SystemTime> =
            messages.iter().filter_map(|message| Some((message.seq, message.read_at?))).collect();
        let traced = applied.decisions.iter().filter_map(|decision| {
            let entry = entry(decision)?;
            Some((decision, entry, entry.trace?))
        });
        let spans: Vec<(Span, TraceContext)> = traced
            .filter_map(|(decision, entry, parent)| {
                let began = read_at.get(&entry.position.seq).copied().unwrap_or(began);
                let mut span = traces.span(Some(parent), || {
                    SpanBuilder::from_name("apply callback")
                        .with_kind(SpanKind::Consumer)
                        .with_start_time(began)
                })?;
                describe(&mut span, partition, decision, entry);
                Some((span, parent))
            })
            .filter(|(span, _)| span.is_recording())
            .collect();
        batch(traces, partition, began, messages, incoming.len(), spans);
    }
}

/// What an entry is about, as far as it is known.
struct About<'a> {
    job: Option<&'a str>,
    run: Option<&'a str>,
    attempt: Option<i32>,
    kind: &'static str,
}

impl<'a> About<'a> {
    fn new(entry: &'a Incoming) -> Self {
        match &entry.content {
            Content::Event(event) => {
                let callback = match &event.body {
                    Body::Callback(callback) => Some(callback),
                    Body::Lost { .. } => None,
                };
                Self {
                    job: Some(event.job_id()),
                    run: callback.and_then(|callback| callback.workflow_run_id.as_deref()),
                    attempt: callback.and_then(|callback| callback.run_attempt),
                    kind: transition::kind(event).as_str(),
                }
            }
            Content::Order(order) => {
                Self { job: None, run: None, attempt: None, kind: order.action.kind().as_str() }
            }
            Content::Undecodable(_) => {
                Self { job: None, run: None, attempt: None, kind: "undecodable" }
            }
        }
    }
}

fn log(partition: Partition, decision: &Decision, entry: Option<&Incoming>) {
    /// tracing needs the level at compile time, so each level has its own call.
    macro_rules! line {
        ($level:ident, $text:literal) => {{
            let about = entry.map(About::new);
            let about = about.as_ref();
            tracing::$level!(
                %partition,
                seq = decision.position.seq,
                idx = decision.position.idx,
                job = about.and_then(|about| about.job),
                run = about.and_then(|about| about.run),
                attempt = about.and_then(|about| about.attempt),
                kind = about.map(|about| about.kind),
                outcome = decision.effect.as_str(),
                reason = decision.reason.map(Reason::as_str),
                trace_id = trace_id(entry).map(tracing::field::display),
                $text
            );
        }};
    }
    match decision.effect {
        Effect::Dead => match entry.map(|entry| &entry.content) {
            Some(Content::Undecodable(_)) => {
                line!(error, "a callback became a dead letter: it can't be decoded");
            }
            Some(Content::Event(_) | Content::Order(_)) | None => {
                line!(error, "a callback became a dead letter: the database refuses it");
            }
        },
        Effect::Held => line!(info, "a callback is held behind a dead letter of its job"),
        Effect::Presumed => line!(info, "a job that fell silent is presumed failed"),
        Effect::Revived => line!(info, "a job that was presumed failed is alive"),
        Effect::Applied | Effect::Unchanged | Effect::Ignored => line!(debug, "decided"),
    }
}

fn trace_id(entry: Option<&Incoming>) -> Option<shared::trace::TraceId> {
    entry?.trace.map(|trace| trace.trace_id())
}

fn describe(span: &mut Span, partition: Partition, decision: &Decision, entry: &Incoming) {
    if !span.is_recording() {
        return;
    }
    let about = About::new(entry);
    destination(span, partition);
    span.set_attributes([
        KeyValue::new("ackline.stream.sequence", entry.position.seq),
        KeyValue::new("ackline.bundle.index", i64::from(entry.position.idx)),
        KeyValue::new("ackline.kind", about.kind),
        KeyValue::new("ackline.outcome", decision.effect.as_str()),
    ]);
    let text = |key, text: Option<&str>| text.map(|text| KeyValue::new(key, text.to_owned()));
    let attempt = about.attempt.map(i64::from);
    let known = [
        text("ackline.job.id", about.job),
        text("cicd.pipeline.run.id", about.run),
        attempt.map(|attempt| KeyValue::new("ackline.run.attempt", attempt)),
        decision.reason.map(|reason| KeyValue::new("ackline.reason", reason.as_str())),
    ];
    span.set_attributes(known.into_iter().flatten());
    if decision.effect == Effect::Dead {
        trace::fail(span, "dead_letter");
    }
}

fn destination(span: &mut Span, partition: Partition) {
    span.set_attributes([
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", partition.stream()),
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
    ]);
}

/// The span of the transaction. It links to the traces of its callbacks, and their spans link to
/// it. None if none of them is recorded.
fn batch(
    traces: &Traces,
    partition: Partition,
    began: SystemTime,
    messages: &[Received],
    entries: usize,
    mut spans: Vec<(Span, TraceContext)>,
) {
    if spans.is_empty() {
        return;
    }
    let links = spans.iter().map(|(_, parent)| Link::with_context(parent.into())).collect();
    let span = traces.span(None, || {
        SpanBuilder::from_name("commit batch")
            .with_kind(SpanKind::Internal)
            .with_start_time(began)
            .with_links(links)
    });
    let Some(mut span) = span else { return };
    destination(&mut span, partition);
    span.set_attributes([
        KeyValue::new("messaging.batch.message_count", entries as i64),
        KeyValue::new("ackline.batch.messages", messages.len() as i64),
    ]);
    if let Some(last) = messages.last() {
        span.set_attribute(KeyValue::new("ackline.stream.sequence", last.seq));
    }
    for (applied, _) in &mut spans {
        applied.add_link(span.span_context().clone(), Vec::new());
    }
}
