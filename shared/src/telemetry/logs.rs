//! Logs.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::io::{self, IsTerminal};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, Targets};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::Problems;

/// What is logged of libraries whose finer levels print addresses with credentials, or bytes of a
/// request, whatever `RUST_LOG` asks for. async-nats' connector also reports as an error that a
/// replaced connection does not come back.
const CAPS: [(&str, LevelFilter); 6] = [
    ("async_nats", LevelFilter::INFO),
    ("async_nats::connector", LevelFilter::OFF),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("sea_orm", LevelFilter::INFO),
    ("sqlx", LevelFilter::WARN),
];

const FORMAT: &str = "LOG_FORMAT";

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Text for people.
    Text,
    /// A JSON object.
    Json,
}

impl Format {
    /// Reads `LOG_FORMAT`; none if it is not set.
    fn read(text: Option<OsString>) -> Result<Option<Self>, &'static str> {
        match text.as_ref().map(|text| text.to_str()) {
            None | Some(Some("")) => Ok(None),
            Some(Some("text")) => Ok(Some(Self::Text)),
            Some(Some("json")) => Ok(Some(Self::Json)),
            _ => Err("must be json or text"),
        }
    }
}

/// Checks the setting that [`init_logs`] reads at a time when it could not report a bad one.
pub fn check(problems: &mut Problems, variable: impl Fn(&str) -> Option<OsString>) {
    problems.take(FORMAT, Format::read(variable(FORMAT)));
}

/// Logs to standard error: text on a terminal, otherwise one JSON object a line, or as `LOG_FORMAT`
/// says. `RUST_LOG` chooses what is logged, by default `info`.
pub fn init_logs() {
    init_logs_to(io::stderr);
}

/// The same, with another writer instead of standard error. It is made for each line, and gets the
/// whole line.
pub fn init_logs_to<W: io::Write>(writer: impl Fn() -> W + Send + Sync + 'static) {
    let asked_for =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let by_default = if io::stderr().is_terminal() { Format::Text } else { Format::Json };
    let layer = match Format::read(std::env::var_os(FORMAT)).ok().flatten().unwrap_or(by_default) {
        Format::Text => layer.with_ansi(io::stderr().is_terminal()).fmt_fields(one_line()).boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(asked_for.and(caps()))).init();
}

/// A filter of its own, because a directive of `RUST_LOG` for a part of a library would win over one
/// for the whole.
fn caps() -> Targets {
    Targets::new().with_default(LevelFilter::TRACE).with_targets(CAPS)
}

/// The fields of a line of text, without control characters. The library would keep those in a
/// message, and in values formatted by `Display`.
fn one_line() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|writer, field, value| {
        let mut line = Printable(writer);
        match field.name() {
            "message" => write!(line, "{value:?}"),
            name => write!(line, "{name}={value:?}"),
        }
    })
    .delimited(" ")
}

/// Escapes control characters as in a Rust literal.
struct Printable<'a, W>(&'a mut W);

impl<W: Write> Write for Printable<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    write!(self.0, "{}{}", &part[..at], last.escape_debug())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn no_part_of_a_library_that_prints_credentials_is_logged_finely() {
        use tracing::Level;
        for (target, level, is_logged) in [
            ("worker::partition", Level::TRACE, true),
            ("async_nats", Level::INFO, true),
            ("async_nats::client", Level::DEBUG, false),
            ("async_nats::connector", Level::ERROR, false),
            ("hyper::proto::h1::io", Level::TRACE, false),
            ("sqlx::query", Level::INFO, false),
        ] {
            assert_eq!(caps().would_enable(target, &level), is_logged, "{target} at {level}");
        }
    }

    #[test]
    fn a_format_that_there_is_not_is_named() {
        for (text, sound) in [("json", true), ("text", true), ("", true), ("JSON", false)] {
            let mut problems = Problems::default();
            check(&mut problems, |name| (name == "LOG_FORMAT").then(|| text.into()));
            let checked = problems.finish(Some(())).map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), sound, "{text}: {checked:?}");
            assert!(sound || checked.unwrap_err().contains("LOG_FORMAT: must be json or text"));
        }
    }

    /// What a line with such a text in it becomes.
    fn written(format: Format, text: &str) -> String {
        #[derive(Clone, Default)]
        struct Memory(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Memory {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let writer = memory.clone();
        let builder =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let log = || tracing::info!(job = text, shown = %text, "about {text}");
        match format {
            Format::Text => {
                tracing::subscriber::with_default(builder.fmt_fields(one_line()).finish(), log);
            }
            Format::Json => {
                let builder = builder.json().flatten_event(true).with_current_span(false);
                tracing::subscriber::with_default(builder.finish(), log);
            }
        }
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn nobody_writes_a_line_of_the_log_by_what_they_send() {
        let forged = "a\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{7}";
        for format in [Format::Text, Format::Json] {
            let written = written(format, forged);
            assert_eq!(written.matches('\n').count(), 1, "{written}");
            let line = written.trim_end_matches('\n');
            assert!(!line.contains(char::is_control), "{written:?}");
            assert!(line.contains("about a") && line.contains("job"), "{written}");
        }
    }
}
