//! Standard output: a person's terminal, or a program's input.

mod bars;
pub(crate) mod job;
pub(crate) mod print;

pub use bars::Bars;

use std::io::{self, IsTerminal, StdoutLock, Write};

use worker::entity::job::Status;

/// Where a command writes, and with which features.
#[derive(Debug)]
pub struct Output<W> {
    writer: W,
    has_colours: bool,
}

/// The same colours as in the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Dim,
    Yellow,
    Green,
    Red,
}

impl Output<StdoutLock<'static>> {
    /// Standard output. Terminals get colours, unless `TERM` is `dumb` or `NO_COLOR` is set
    /// (<https://no-color.org>).
    #[must_use]
    pub fn stdout() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let has_colours = io::stdout().is_terminal() && !is_dumb && !is_set("NO_COLOR");
        Self { writer: io::stdout().lock(), has_colours }
    }
}

impl<W> Output<W> {
    /// The text in that colour, if there are colours. Its width stays the same.
    pub(crate) fn paint(&self, text: &str, colour: Option<Colour>) -> String {
        match colour.filter(|_| self.has_colours && !text.is_empty()) {
            None => text.to_owned(),
            Some(colour) => format!("\x1b[{}m{text}\x1b[0m", colour.code()),
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Colour {
    fn code(self) -> u8 {
        match self {
            Self::Dim => 2,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
        }
    }
}

impl From<Status> for Colour {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Dim,
            Status::Provisioning => Self::Yellow,
            Status::Running => Self::Green,
            Status::Failed => Self::Red,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The output of a command, on a terminal with colours or elsewhere.
    pub(crate) fn written(
        has_colours: bool,
        write: impl FnOnce(&mut Output<Vec<u8>>) -> io::Result<()>,
    ) -> String {
        let mut out = Output { writer: Vec::new(), has_colours };
        write(&mut out).unwrap();
        String::from_utf8(out.writer).unwrap()
    }

    #[test]
    fn only_a_terminal_is_painted() {
        let said = |has_colours| {
            written(has_colours, |out| {
                let text = out.paint("failed", Some(Status::Failed.into()));
                let plain = out.paint("-", None);
                let nothing = out.paint("", Some(Colour::Dim));
                write!(out, "{text} {plain} {nothing}")
            })
        };
        assert_eq!(said(false), "failed - ");
        assert_eq!(said(true), "\x1b[31mfailed\x1b[0m - ");
    }
}
