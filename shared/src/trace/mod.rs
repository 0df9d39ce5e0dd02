//! Traces: which trace a callback belongs to, and, where an OTLP endpoint is configured, the spans
//! that ingress and worker export.
//!
//! A [`TraceContext`] travels with its callback whether anybody exports or not. Spans cost nothing
//! where no endpoint is set: [`Traces::span`] is a branch then, and nothing else is called. The
//! feature `otlp` holds all that depends on OpenTelemetry; without it a configured endpoint is a
//! bad setting.

mod context;
mod settings;
mod span;

#[cfg(feature = "otlp")]
mod client;
#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
#[path = "left_out.rs"]
mod export;

pub use self::context::{TraceContext, TraceId, lenient};
pub use self::settings::Settings;
pub use self::span::{Kind, NewSpan, Span, Traces, Value};
