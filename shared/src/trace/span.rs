//! Spans as ingress and worker see them, whatever exports them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use super::TraceContext;
use super::export::{Exporter, Recording};

/// How long the last spans may take to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where spans go: nowhere, unless an endpoint is configured. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporter>);

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Server,
    /// A message that is sent.
    Producer,
    /// A message that is worked on.
    Consumer,
    /// Work that nobody else is a part of.
    Internal,
}

/// What a span is from its beginning.
#[derive(Debug)]
pub struct NewSpan<'a> {
    /// One of a few names; what differs from span to span belongs into attributes.
    pub name: Cow<'static, str>,
    /// What it is of.
    pub kind: Kind,
    /// When it began.
    pub began: SystemTime,
    /// Who comes before it; a new trace begins without.
    pub parent: Option<TraceContext>,
    /// What it has to do with beside that.
    pub links: &'a [TraceContext],
}

/// A span that has begun. It ends when it is dropped.
#[derive(Debug)]
pub struct Span(Recording);

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, of a length that somebody has bounded.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl Traces {
    /// Spans that go nowhere.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    pub(super) fn to(exporter: Exporter) -> Self {
        Self(Some(exporter))
    }

    /// Whether spans go anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The time by this machine's clock, for a span that may begin now; none where none will. Spans
    /// alone are told it: nothing is decided by them.
    #[must_use]
    pub fn now(&self) -> Option<SystemTime> {
        #[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
        self.0.as_ref().map(|_| SystemTime::now())
    }

    /// Begins a span; none where spans go nowhere. `new` is called only if there is one.
    pub fn span<'a>(&self, new: impl FnOnce() -> NewSpan<'a>) -> Option<Span> {
        self.0.as_ref().map(|exporter| Span(exporter.start(new())))
    }

    /// Lets what has ended leave, for two seconds at most. Spans that end later go nowhere.
    pub async fn finish(&self) {
        if let Some(exporter) = self.0.clone() {
            // It blocks. A panic in there is no concern of who ends.
            let _ = tokio::task::spawn_blocking(move || exporter.finish(FLUSH_LIMIT)).await;
        }
    }
}

impl Span {
    /// What comes after it names this as its parent.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.context()
    }

    /// Whether it will be exported: a sampler, or whoever began the trace, may be against it.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_recording()
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if self.0.is_recording() {
            self.0.set(key, value.into());
        }
    }

    /// Adds an attribute, if there is a value.
    pub fn set_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Says what else it has to do with.
    pub fn link(&mut self, other: Option<TraceContext>) {
        if let Some(other) = other {
            self.0.link(other);
        }
    }

    /// Says that what it is of has failed; one of a few reasons.
    pub fn fail(&mut self, reason: &'static str) {
        self.set("error.type", reason);
        self.0.fail(reason);
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Cow<'static, str>> for Value {
    fn from(text: Cow<'static, str>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_spans_go_nowhere_none_is_begun() {
        let traces = Traces::off();
        assert!(!traces.is_on() && traces.now().is_none());
        assert!(traces.span(|| panic!("not even described")).is_none());
        traces.finish().await;
    }
}
