//! Signed bodies that are hardly JSON, or hardly callbacks.

use chrono::TimeDelta;
use e2e::stack::{Db, Stack};
use serde_json::json;

use super::{Door, RECEIVED};
use crate::expect::*;

#[tokio::test]
async fn no_json_is_too_odd_to_be_answered() {
    const INVALID: &str = r#"400 {"error":"Invalid JSON"}"#;
    let mut door = Door::open().await;
    let with = |member: &str| format!(r#"{{"job_id":"j","status":"queued",{member}}}"#);
    let nested = |open: &str, close: &str, depth: usize| {
        with(&format!(r#""x":{}1{}"#, open.repeat(depth), close.repeat(depth)))
    };
    let keys: Vec<String> = (0..5_000).map(|key| format!(r#""k{key}":0"#)).collect();
    for (case, body, expected) in [
        ("100 deep", nested("[", "]", 100), RECEIVED),
        ("200 deep", nested("[", "]", 200), INVALID),
        ("30 000 deep", nested("[", "]", 30_000), INVALID),
        ("objects 10 000 deep", nested(r#"{"":"#, "}", 10_000), INVALID),
        ("60 000 that never close", with(&format!(r#""x":{}"#, "[".repeat(60_000))), INVALID),
        ("beyond a float", with(r#""x":1e999999"#), INVALID),
        ("below it", with(r#""x":-1e999999"#), INVALID),
        ("nearly nothing", with(r#""x":1e-999999"#), RECEIVED),
        (
            "an exponent of 60 000 digits",
            with(&format!(r#""x":1e{}"#, "9".repeat(60_000))),
            INVALID,
        ),
        ("60 000 digits", with(&format!(r#""x":{}"#, "9".repeat(60_000))), INVALID),
        ("60 000 digits of a part", with(&format!(r#""x":0.{}"#, "3".repeat(60_000))), RECEIVED),
        ("a number that begins with 0", with(r#""x":01"#), INVALID),
        ("no number", with(r#""x":NaN"#), INVALID),
        ("a comma too many", with(r#""x":1,"#), INVALID),
        ("a comment", with(r#""x":1/**/"#), INVALID),
        ("a key of 60 000 bytes", with(&format!(r#""{}":1"#, "k".repeat(60_000))), RECEIVED),
        ("5000 keys", with(&keys.join(",")), RECEIVED),
        ("5000 keys and one again", with(&(keys.join(",") + r#","k0":0"#)), INVALID),
        ("a key twice", with(r#""status":"queued""#), INVALID),
        ("a key twice, escaped", with(r#""statu\u0073":"queued""#), INVALID),
        ("a key twice, within", with(r#""x":[{"y":{"z":1,"z":1}}]"#), INVALID),
        ("a pair of surrogates", with(r#""x":"\ud83d\ude00""#), RECEIVED),
        ("half a pair", with(r#""x":"\ud83d""#), INVALID),
        ("the other half", with(r#""x":"\ude00""#), INVALID),
        ("halves the wrong way round", with(r#""x":"\ude00\ud83d""#), INVALID),
        ("half a pair in a key", with(r#""\ud83d":1"#), INVALID),
        ("NUL in a key", with(r#""\u0000":1"#), RECEIVED),
        ("a newline in a text", with("\"x\":\"\n\""), INVALID),
        ("something behind it", with(r#""x":1"#) + "\0", INVALID),
        ("a second object", with(r#""x":1"#) + "{}", INVALID),
        ("blanks around it", format!("\r\n\t {} \r\n", with(r#""x":1"#)), RECEIVED),
        ("a byte order mark", format!("\u{feff}{}", with(r#""x":1"#)), INVALID),
        ("nothing", String::new(), INVALID),
        ("blanks", " \r\n".to_owned(), INVALID),
    ] {
        door.answers(case, body, expected).await;
    }
    for (case, bytes) in [
        ("a byte that is no character", &b"\xff"[..]),
        ("half a character", b"\xc3"),
        ("too long a form", b"\xc0\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond Unicode", b"\xf5\x80\x80\x80"),
    ] {
        for member in [r#""x":"?""#, r#""?":1"#, r#""x":[{"y":"?"}]"#, r#""error":"?""#, "?"] {
            let whole = with(member).into_bytes();
            let at = whole.iter().position(|byte| *byte == b'?').unwrap();
            let body = [&whole[..at], bytes, &whole[at + 1..]].concat();
            door.answers(&format!("{case} in {member}"), body, INVALID).await;
        }
    }
    let utf_16: Vec<u8> = with(r#""x":1"#).encode_utf16().flat_map(u16::to_le_bytes).collect();
    door.answers("UTF-16", utf_16, INVALID).await;
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn a_job_id_is_a_short_text_without_control_characters() {
    const INVALID: &str = r#"400 {"error":"Invalid job_id"}"#;
    const MISSING: &str = r#"400 {"error":"Missing job_id"}"#;
    const INVALID_JSON: &str = r#"400 {"error":"Invalid JSON"}"#;
    let mut door = Door::open().await;
    let of = |job_id: &str| format!(r#"{{"job_id":{job_id},"status":"queued"}}"#);

    for control in (0..0x20_u8).chain(0x7f..0xa0) {
        let escaped = of(&format!(r#""a\u{control:04x}""#));
        door.answers(&escaped, escaped.clone(), INVALID).await;
        let verbatim = of(&format!("\"a{}\"", char::from(control)));
        let expected = if control < 0x20 { INVALID_JSON } else { INVALID };
        door.answers(&format!("{control:#x}"), verbatim, expected).await;
    }
    for (value, expected) in [
        ("5", INVALID),
        ("1.5", INVALID),
        ("1e400", INVALID_JSON),
        ("true", INVALID),
        ("{}", INVALID),
        (r#"{"job_id":"a"}"#, INVALID),
        ("[]", INVALID),
        (r#"["a"]"#, INVALID),
        ("null", MISSING),
        (r#""""#, MISSING),
    ] {
        door.answers(value, of(value), expected).await;
    }

    let fits = ["x".repeat(200), "ü".repeat(100), "😀".repeat(50), "'; --\"\\ /\u{a0}".to_owned()];
    for job_id in &fits {
        door.answers(job_id, of(&json!(job_id).to_string()), RECEIVED).await;
    }
    for job_id in &fits[..3] {
        let longer = format!("{job_id}x");
        door.answers(&longer, of(&format!("\"{longer}\"")), INVALID).await;
    }
    let mut ids = fits.each_ref().map(String::as_str);
    ids.sort_unstable();
    door.leaves(&ids).await;
}

#[tokio::test]
async fn a_leap_second_is_the_beginning_of_the_next_minute() {
    let stack = Stack::start(Db::Postgres).await.unwrap();
    // Any minute can be said to have one; this one has passed, so that it is kept as it was sent.
    let sent_at = (now() - TimeDelta::minutes(1)).format("%FT%H:%M:60Z").to_string();
    accept(&stack, json!({ "job_id": "j", "type": "heartbeat", "sent_at": sent_at }).to_string())
        .await;
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert!(jobs(&db).await[0].last_heartbeat_sent_at.is_some());
    assert_audited(&stack).await;
}
