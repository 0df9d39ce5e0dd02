//! In place of the exporter in programs that were built without it: there is none.

use std::path::Path;
use std::time::Duration;

use hyper::Uri;

use super::span::Value;
use super::{NewSpan, TraceContext};

#[derive(Debug, Clone)]
pub(super) enum Client {}

#[derive(Debug, Clone)]
pub(super) enum Exporter {}

#[derive(Debug)]
pub(super) enum Recording {}

impl Client {
    pub(super) fn new(_: Uri, _: Duration, _: Option<&Path>) -> Result<Self, String> {
        Err("this program was built without the feature otlp, so it can't export".into())
    }

    pub(super) fn endpoint(&self) -> String {
        match *self {}
    }
}

impl Exporter {
    pub(super) fn new(client: Client, _service: &'static str) -> Result<Self, String> {
        match client {}
    }

    pub(super) fn start(&self, _new: NewSpan<'_>) -> Recording {
        match *self {}
    }

    pub(super) fn finish(&self, _limit: Duration) {
        match *self {}
    }
}

impl Recording {
    pub(super) fn context(&self) -> Option<TraceContext> {
        match *self {}
    }

    pub(super) fn is_recording(&self) -> bool {
        match *self {}
    }

    pub(super) fn set(&mut self, _key: &'static str, _value: Value) {
        match *self {}
    }

    pub(super) fn link(&mut self, _other: TraceContext) {
        match *self {}
    }

    pub(super) fn fail(&mut self, _reason: &'static str) {
        match *self {}
    }
}
