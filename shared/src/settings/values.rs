//! Parsers for values that people write.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Reads a duration: `500ms`, `12s`, `10m`, `7d`, or a bare number of seconds.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take). Zero is refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.trim().parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text.trim()).ok(),
    };
    // Bounded by what a clock can add to the present.
    let longest = Duration::from_secs(10 * 365 * 86_400);
    parsed.filter(|duration| !duration.is_zero() && *duration <= longest).ok_or_else(|| {
        format!(
            "\"{text}\" is not a duration like 500ms, 12s, 10m or 7d, above zero and up to 10 years"
        )
    })
}

/// Reads a duration that may be zero, too.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take).
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

/// Reads `true` or `false`, `yes` or `no`, `1` or `0`.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take).
pub fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

/// Reads a duration that is not below this one.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take).
pub fn at_least(text: &str, least: Duration) -> Result<Duration, String> {
    let read = duration(text)?;
    if read < least { Err(format!("must be at least {least:?}")) } else { Ok(read) }
}

/// Reads a whole number within bounds.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take).
pub fn number<T>(text: &str, min: T, max: T) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    text.trim()
        .parse()
        .ok()
        .filter(|number| *number >= min && *number <= max)
        .ok_or_else(|| format!("\"{text}\" is not a whole number from {min} to {max}"))
}

/// Reads an address to listen on.
///
/// # Errors
/// What the text should be, for [`Problems::take`](super::Problems::take).
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("\"{text}\" is not an address like 127.0.0.1:8080 or [::]:8080"))
}

#[cfg(test)]
mod tests {
    use super::super::Problems;
    use super::*;

    #[test]
    fn every_problem_is_named_at_once() {
        let mut problems = Problems::default();
        let a = problems.take("--a", duration("fast"));
        let b = problems.take("--b", number::<u16>("70000", 1, 100));
        let c = problems.take("--c", listen_address("127.0.0.1:80"));
        let error = problems.finish(a.zip(b).zip(c)).unwrap_err().to_string();
        assert!(error.contains("--a: \"fast\"") && error.contains("--b: \"70000\""), "{error}");
        assert!(!error.contains("--c"));
    }

    #[test]
    fn durations_come_in_the_usual_forms() {
        assert_eq!(duration("12"), Ok(Duration::from_secs(12)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "0", "0s", "-1s", "soon", "18446744073709551615", "11y"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
