//! Formats values for people, on a page as well as on a terminal.

use std::borrow::Cow;

use chrono::TimeDelta;

/// A sender's text without the sequences that colour it on a terminal (`ESC [ … m`, and `ESC [ … K`,
/// which erases the rest of a line). No other sequence is taken out: it could hide a text.
pub fn without_colours(text: &str) -> Cow<'_, str> {
    const BEGIN: &str = "\u{1b}[";
    if !text.contains(BEGIN) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        plain.push_str(before);
        let parameters = after.bytes().take_while(|byte| matches!(byte, b'0'..=b';')).count();
        rest = match after.as_bytes().get(parameters) {
            Some(b'm' | b'K') => &after[parameters + 1..],
            _ => {
                plain.push_str(BEGIN);
                after
            }
        };
    }
    plain.push_str(rest);
    plain.into()
}

/// Whether a character of a sender's text is invisible, or would reverse the text that follows.
/// Such a character is shown as its number instead.
pub fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
}

/// A character's number, as shown in its place.
pub fn number_of(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// A span of time, to its two largest units.
pub fn span(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds().max(0);
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

/// A number of seconds, in a suitable unit.
pub fn seconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        value if value < 10.0 => format!("{value:.1} s"),
        value => span(TimeDelta::seconds(value as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_out_and_nothing_else() {
        for (text, plain) in [
            ("\x1b[31m╷\x1b[0m\n\x1b[1;38;5;9mError\x1b[m", "╷\nError"),
            ("\x1b[38:2::255:0:0mred\x1b[K", "red"),
            ("ok: \x1b[0;32m[host]\x1b[0m", "ok: [host]"),
            ("plain ü", "plain ü"),
        ] {
            assert_eq!(without_colours(text), plain);
        }
        // What moves the cursor, ends early, or hides a text is shown.
        for shown in
            ["\x1b[2J", "\x1b[1A", "\x1b[", "\x1b[31", "\x1b]0;text\x07", "\x1b[3ü", "\x1b[?1m"]
        {
            assert_eq!(without_colours(shown), shown);
        }
        assert_eq!(without_colours("\x1b[\x1b[1mm"), "\x1b[m", "once only");
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 59, 61, 3700, 90_000].map(|s| span(TimeDelta::seconds(s)));
        assert_eq!(spans, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0.0042, 2.26, 75.0].map(seconds), ["4 ms", "2.3 s", "1 min 15 s"]);
    }
}
