//! Traces: which trace a callback belongs to, and, where an OTLP endpoint is configured, the spans
//! that ingress and worker export.
//!
//! A [`TraceContext`] travels with its callback whether anybody exports or not. Spans are
//! OpenTelemetry's own; where no endpoint is set, [`Traces::span`] is a branch and nothing else is
//! called.

mod context;

mod client;
mod settings;
mod spans;

pub use opentelemetry::trace::TraceId;
pub use opentelemetry_sdk::trace::Span;

pub use self::context::TraceContext;
pub(crate) use self::context::lenient;
pub use self::settings::Settings;
pub use self::spans::{Traces, fail};
