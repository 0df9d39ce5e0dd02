//! Formats values for people, on a page as well as on a terminal.

use chrono::TimeDelta;

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
    fn spans_are_short() {
        let spans = [0, 59, 61, 3700, 90_000].map(|s| span(TimeDelta::seconds(s)));
        assert_eq!(spans, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0.0042, 2.26, 75.0].map(seconds), ["4 ms", "2.3 s", "1 min 15 s"]);
    }
}
