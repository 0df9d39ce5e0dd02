//! Formats values for a page.

use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};

use crate::entity::job::{Failure, Model as Job, Status};
use crate::observe::humanize::{is_hidden, number_of, without_colours};
pub(super) use crate::observe::humanize::{seconds, span};

/// A text from a sender: escaped, isolated from the text direction around it, and with invisible
/// and reversing characters made visible. The colours of a terminal are left out.
pub(super) fn said(text: &str) -> Markup {
    html! {
        bdi {
            @for (is_hidden, part) in parts(&without_colours(text)) {
                @if is_hidden {
                    @for c in part.chars() { span.hidden-char { (number_of(c)) } }
                } @else { (part) }
            }
        }
    }
}

/// The same, cut to fit a line.
pub(super) fn said_briefly(text: &str, max_chars: usize) -> Markup {
    let text = without_colours(text);
    match text.char_indices().nth(max_chars) {
        None => said(&text),
        Some((end, _)) => html! { (said(&text[..end])) "…" },
    }
}

/// Runs of characters, and whether they are shown as numbers.
fn parts(text: &str) -> Vec<(bool, &str)> {
    let mut parts: Vec<(bool, &str)> = Vec::new();
    let mut begin = 0;
    for (at, c) in text.char_indices() {
        let is_hidden = is_hidden(c);
        match parts.last_mut() {
            Some((hidden, part)) if *hidden == is_hidden => *part = &text[begin..at + c.len_utf8()],
            _ => {
                begin = at;
                parts.push((is_hidden, &text[at..at + c.len_utf8()]));
            }
        }
    }
    parts
}

/// A moment, with its date.
pub(super) fn time(at: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.to_rfc3339_opts(SecondsFormat::Millis, true)) {
            (at.format("%Y-%m-%d %H:%M:%S").to_string())
        }
    }
}

/// A moment, or a dash.
pub(super) fn time_or_dash(at: Option<DateTime<Utc>>) -> Markup {
    match at {
        Some(at) => time(at),
        None => html! { "–" },
    }
}

/// A rate or a quantity, short.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value < 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
        value if value < 10_000.0 => format!("{value:.0}"),
        value if value < 10_000_000.0 => format!("{:.1} k", value / 1000.0),
        value => format!("{:.1} M", value / 1_000_000.0),
    }
}

/// A count, with separated thousands.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A status, in words and in its colour.
pub(super) fn status(status: Status, failure: Option<Failure>) -> Markup {
    let presumed = status == Status::Failed && failure == Some(Failure::Presumed);
    html! {
        span class=(format!("status {}", status.as_str())) {
            (status.as_str()) @if presumed { " (presumed)" }
        }
    }
}

/// How long a job took, or has taken by now.
pub(super) fn took(job: &Job, now: DateTime<Utc>) -> Option<String> {
    let started = job.started_at?;
    let end = job.finished_at.unwrap_or(now);
    Some(span(end.signed_duration_since(started)))
}

/// The URL of a page, without empty parameters.
pub(super) fn address(path: &str, asked: &[(&str, &str)]) -> String {
    let begin = format!("{path}?");
    let at = begin.len();
    let mut query = url::form_urlencoded::Serializer::for_suffix(begin, at);
    query.extend_pairs(asked.iter().filter(|(_, value)| !value.is_empty()));
    query.finish()
}

/// The URL of a job's page.
pub(super) fn job_path(id: &str) -> String {
    address("/job", &[("id", id)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_senders_say_is_text() {
        let shown = |text| said(text).into_string();
        assert_eq!(shown("plain ü"), "<bdi>plain ü</bdi>");
        assert_eq!(
            shown("<script>alert('1')</script>&\""),
            "<bdi>&lt;script&gt;alert('1')&lt;/script&gt;&amp;&quot;</bdi>"
        );
        assert_eq!(
            shown("a\u{202e}b\u{7}"),
            "<bdi>a<span class=\"hidden-char\">U+202E</span>b<span class=\"hidden-char\">U+0007</span></bdi>"
        );
        assert_eq!(shown("\u{1b}[31m╷\u{1b}[0m red"), "<bdi>╷ red</bdi>");
        assert_eq!(said_briefly("\u{1b}[31mred\u{1b}[0m", 3).into_string(), "<bdi>red</bdi>");
        assert_eq!(shown("two\nlines"), "<bdi>two\nlines</bdi>");
        assert_eq!(said_briefly("äöü", 2).into_string(), "<bdi>äö</bdi>…");
        assert_eq!(said_briefly("äöü", 3).into_string(), "<bdi>äöü</bdi>");
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!([0.0, 0.25, 950.0, 12_345.0].map(number), ["0", "0.2", "950", "12.3 k"]);
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
    }

    #[test]
    fn every_id_has_an_address() {
        assert_eq!(job_path("a b/../ü&x"), "/job?id=a+b%2F..%2F%C3%BC%26x");
    }
}
