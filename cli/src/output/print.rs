//! Printing for people and for programs.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use unicode_width::UnicodeWidthStr;

use super::{Colour, Output};
use worker::observe::humanize::{is_hidden, number_of, without_colours};

/// Between two columns.
const GAP: usize = 2;

/// Prints a value as JSON.
pub(crate) fn json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    // As an error of serde_json, a closed pipe would not be recognised.
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// A text, or a dash.
pub(crate) fn text(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

/// A time, or a dash.
pub(crate) fn time(value: Option<DateTime<Utc>>) -> String {
    value.map_or("-".into(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A text in one line. What senders wrote must not steer the terminal: what can't be seen, or would
/// turn what follows around, is shown by its number. Its colours are left out.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in without_colours(text).chars() {
        match c {
            '\n' | '\t' => shown.push(' '),
            c if is_hidden(c) => shown.push_str(&number_of(c)),
            c => shown.push(c),
        }
    }
    shown
}

/// Left-aligned columns.
pub(crate) struct Table {
    rows: Vec<Row>,
}

/// One line of a table.
pub(crate) struct Row(Vec<(String, Option<Colour>)>);

impl Row {
    /// Gives a column a colour, where there are colours.
    pub(crate) fn paint(&mut self, column: usize, colour: impl Into<Colour>) {
        if let Some((_, painted)) = self.0.get_mut(column) {
            *painted = Some(colour.into());
        }
    }
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![Row(head.map(|name| (name.to_owned(), None)).to_vec())] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) -> &mut Row {
        let row = Row(cells.iter().map(|cell| (printable(cell), None)).collect());
        self.rows.push(row);
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    pub(crate) fn print(&self, out: &mut Output<impl Write>) -> io::Result<()> {
        let count = self.rows.first().map_or(0, |head| head.0.len());
        let width =
            |column: usize| self.rows.iter().map(|row| row.0[column].0.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..count).map(width).collect();
        for row in &self.rows {
            // Nothing is padded behind the last text of a line.
            let mut padding = 0;
            for ((cell, colour), width) in row.0.iter().zip(&widths) {
                if !cell.is_empty() {
                    write!(out, "{:padding$}", "")?;
                    let painted = out.paint(cell, *colour);
                    write!(out, "{painted}")?;
                    padding = 0;
                }
                padding += width - cell.width() + GAP;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::written;
    use worker::entity::job::Status;

    fn table() -> Table {
        let mut table = Table::new(["JOB", "STATUS", "ERROR"]);
        table.row(["a".into(), "queued".into(), "-".into()]).paint(1, Status::Queued);
        let failed = table.row(["日本".into(), "failed".into(), "too late".into()]);
        failed.paint(1, Status::Failed);
        table.row(["é".into(), String::new(), String::new()]);
        table
    }

    #[test]
    fn a_closed_pipe_is_recognised_whatever_is_printed() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(crate::is_closed_pipe(&json(&mut Closed, &["a"]).unwrap_err()));
        assert!(crate::is_closed_pipe(&writeln!(Closed, "a").unwrap_err().into()));
        assert!(!crate::is_closed_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }

    #[test]
    fn columns_stand_below_each_other_whatever_is_in_them() {
        let plain = written(false, |out| table().print(out));
        assert_eq!(plain, "JOB   STATUS  ERROR\na     queued  -\n日本  failed  too late\né\n");
    }

    #[test]
    fn colours_take_no_place() {
        let painted = written(true, |out| table().print(out));
        assert!(painted.contains("a     \x1b[2mqueued\x1b[0m  -\n"), "{painted:?}");
        assert!(painted.contains("\x1b[31mfailed\x1b[0m  too late\n"), "{painted:?}");
        let stripped =
            painted.replace("\x1b[2m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, written(false, |out| table().print(out)));
    }

    #[test]
    fn what_senders_wrote_does_not_steer_the_terminal() {
        assert_eq!(printable("plain ü 日本"), "plain ü 日本");
        assert_eq!(printable("two\nlines\tand"), "two lines and");
        assert_eq!(printable("\x1b[31mred\r\u{7}\x1b[0m"), "redU+000DU+0007");
        assert_eq!(printable("\x1b[2J\x1b[31"), "U+001B[2JU+001B[31");
        assert_eq!(printable("a\u{202e}b\u{200b}c\u{9b}"), "aU+202EbU+200BcU+009B");
    }
}
