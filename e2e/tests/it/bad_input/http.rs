//! Requests as HTTP does not mean them.

use e2e::stack::{CALLBACK_PATH, Stack};

use super::{BEHIND, Door, NOT_FOUND, RECEIVED};
use crate::expect::*;
use crate::raw::{Raw, answers, head};

const NOT_ALLOWED: &str = r#"405 {"error":"Method not allowed"}"#;
const UNSIGNED: &str = r#"401 {"error":"Invalid signature"}"#;
const TOO_LARGE: &str = r#"413 {"error":"Body too large"}"#;
const TOO_SLOW: &str = r#"408 {"error":"Body not received in time"}"#;
const OTHER_CODING: &str = r#"400 {"error":"Transfer coding not supported"}"#;
const BROKEN: &str = r#"400 {"error":"Body not received"}"#;
/// What the HTTP library answers by itself, before there is a request.
const BAD_REQUEST: &str = "400";
const HEAD_TOO_LARGE: &str = "431";

#[tokio::test]
async fn a_head_is_understood_or_refused() {
    let mut door = Door::open().await;
    let body = status("j", "queued");
    let signed = door.signed(&body);
    let hex = door.stack.sign(body.as_bytes());
    let length = format!("Content-Length: {}\r\n", body.len());
    let good = length.clone() + &signed;
    let read = &[RECEIVED, NOT_FOUND][..];
    let unsigned = &[UNSIGNED, NOT_FOUND][..];
    let refused = &[BAD_REQUEST][..];
    let too_large = &[HEAD_TOO_LARGE][..];
    for (case, fields, expected) in [
        ("a good one", good.clone(), read),
        ("two signatures", format!("{good}{signed}"), unsigned),
        ("a list of signatures", format!("{length}X-Signature: {hex}, {hex}\r\n"), unsigned),
        ("capitals", format!("{length}X-SIGNATURE: {}\r\n", hex.to_uppercase()), read),
        ("blanks around a value", format!("{length}X-Signature:  \t{hex} \t\r\n"), read),
        ("an odd number of digits", format!("{length}X-Signature: {}\r\n", &hex[1..]), unsigned),
        ("a digit too many", format!("{length}X-Signature: {hex}0\r\n"), unsigned),
        ("not ASCII", format!("{length}X-Signature: {}\r\n", "ü".repeat(32)), unsigned),
        ("NUL in a value", format!("{length}X-Signature: {hex}\0\r\n"), refused),
        ("NUL in a name", format!("{good}A\0: 1\r\n"), refused),
        ("DEL in a value", format!("{good}A: \x7f\r\n"), refused),
        ("CR in a value", format!("{good}A: a\rb\r\n"), refused),
        ("a folded value", format!("{good}A: a\r\n b\r\n"), refused),
        ("no colon", format!("{good}nonsense\r\n"), refused),
        ("a blank before the colon", good.replace("Length:", "Length :"), refused),
        ("bare newlines", good.replace("\r\n", "\n"), read),
        ("another expectation", format!("{good}Expect: tea\r\n"), read),
        ("an upgrade", format!("{good}Connection: Upgrade\r\nUpgrade: h2c\r\n"), read),
        ("98 fields more", format!("{good}{}", "A: 1\r\n".repeat(97)), read),
        ("too many fields", format!("{good}{}", "A: 1\r\n".repeat(98)), too_large),
        ("a large field", format!("{good}A: {}\r\n", "x".repeat(15_000)), read),
        ("too large a field", format!("{good}A: {}\r\n", "x".repeat(17_000)), too_large),
        ("one length twice", format!("{length}{good}"), read),
        ("two lengths", format!("Content-Length: 1\r\n{good}"), refused),
        ("a list of lengths", format!("Content-Length: 32, 32\r\n{signed}"), refused),
        ("zeros before the length", good.replace("Length: ", "Length: 000"), read),
        ("no length", signed.clone(), &[UNSIGNED, BAD_REQUEST]),
        ("a length too short", format!("Content-Length: 5\r\n{signed}"), &[UNSIGNED, BAD_REQUEST]),
        ("an empty length", format!("Content-Length: \r\n{signed}"), refused),
        ("a length below 0", format!("Content-Length: -1\r\n{signed}"), refused),
        ("a length with a plus", good.replace("Length: ", "Length: +"), refused),
        ("a length in hex", format!("Content-Length: 0x20\r\n{signed}"), refused),
        ("a broken length", format!("Content-Length: 32.0\r\n{signed}"), refused),
        ("a huge length", format!("Content-Length: 9999999999\r\n{signed}"), &[TOO_LARGE]),
        ("an absurd length", format!("Content-Length: {}\r\n{signed}", u64::MAX), too_large),
        ("one beyond", format!("Content-Length: 18446744073709551616\r\n{signed}"), refused),
        ("a coding that is not known", format!("Transfer-Encoding: gzip\r\n{good}"), refused),
        ("nearly chunked", format!("Transfer-Encoding: xchunked\r\n{good}"), refused),
        ("chunked, hidden", format!("Transfer-Encoding: \x0bchunked\r\n{good}"), refused),
        ("chunked, then not", format!("Transfer-Encoding: chunked, identity\r\n{good}"), refused),
        ("both, not chunked", format!("Transfer-Encoding: chunked\r\n{good}"), &[BROKEN]),
    ] {
        let request = format!("POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
        door.hears(case, request + BEHIND, expected).await;
    }
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn a_request_line_is_understood_or_refused() {
    let mut door = Door::open().await;
    let good = door.good();
    let (_, rest) = good.split_once("\r\n").unwrap();
    let read = &[RECEIVED, NOT_FOUND][..];
    let not_found = &[NOT_FOUND, NOT_FOUND][..];
    let not_allowed = &[NOT_ALLOWED, NOT_FOUND][..];
    let refused = &[BAD_REQUEST][..];
    let path = CALLBACK_PATH;
    for (case, line, expected) in [
        ("HTTP/1.0", format!("POST {path} HTTP/1.0"), &[RECEIVED][..]),
        ("HTTP/1.2", format!("POST {path} HTTP/1.2"), refused),
        ("HTTP/2.0", format!("POST {path} HTTP/2.0"), refused),
        ("HTTP/0.9", format!("POST {path}"), refused),
        ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[]),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\x03\x03".into(), refused),
        ("garbage", "\n\n\0\x01\x02\x03".into(), refused),
        ("empty lines before", format!("\r\n\r\n\nPOST {path} HTTP/1.1"), read),
        ("an absolute address", format!("POST http://b{path} HTTP/1.1"), read),
        ("a query", format!("POST {path}?a=b HTTP/1.1"), read),
        ("two slashes", format!("POST /{path} HTTP/1.1"), not_found),
        ("an escape", format!("POST {} HTTP/1.1", path.replace("api", "%61pi")), not_found),
        ("dots", format!("POST /a/..{path} HTTP/1.1"), not_found),
        ("an asterisk", "POST * HTTP/1.1".into(), not_found),
        ("not ASCII", "POST /ü HTTP/1.1".into(), not_found),
        ("no address", "POST  HTTP/1.1".into(), refused),
        ("too many blanks", format!("POST  {path}  HTTP/1.1"), refused),
        ("NUL in the address", format!("POST {path}\0 HTTP/1.1"), refused),
        ("a long address", format!("POST /{} HTTP/1.1", "x".repeat(15_000)), not_found),
        ("too long", format!("POST /{} HTTP/1.1", "x".repeat(17_000)), &[HEAD_TOO_LARGE]),
        ("CONNECT", "CONNECT a:1 HTTP/1.1".into(), not_found),
        ("CONNECT on the path", format!("CONNECT {path} HTTP/1.1"), not_allowed),
        ("small letters", format!("post {path} HTTP/1.1"), not_allowed),
        ("an unheard method", format!("POSTS {path} HTTP/1.1"), not_allowed),
        ("NUL in the method", format!("PO\0ST {path} HTTP/1.1"), refused),
    ] {
        door.hears(case, format!("{line}\r\n{rest}{BEHIND}"), expected).await;
    }
    let no_host = format!("{good}{BEHIND}").replace("Host: a\r\n", "");
    door.hears("no Host", no_host, read).await;
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn chunks_that_lie_are_refused() {
    let mut door = Door::open().await;
    let body = status("j", "queued");
    let n = body.len();
    let end = "\r\n0\r\n\r\n";
    let each: String = body.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
    let read = &[RECEIVED, NOT_FOUND][..];
    let broken = &[BROKEN][..];
    let (long, many) = ("x".repeat(17_000), "A: 1\r\n".repeat(1_100));
    let behind = |fields: &str| format!("{n:x}\r\n{body}\r\n0\r\n{fields}\r\n");
    for (case, chunks, expected) in [
        ("one", format!("{n:x}\r\n{body}{end}"), read),
        ("one a byte", format!("{each}0\r\n\r\n"), read),
        ("capitals", format!("{n:X}\r\n{body}{end}"), read),
        ("zeros before", format!("{n:020x}\r\n{body}{end}"), read),
        ("blanks behind the size", format!("{n:x} \r\n{body}{end}"), read),
        ("an extension", format!("{n:x};a=b;c=\"d\"\r\n{body}{end}"), read),
        ("too long an extension", format!("{n:x};{long}\r\n{body}{end}"), broken),
        ("a newline in an extension", format!("{n:x};a\nb\r\n{body}{end}"), broken),
        ("a signature behind it", behind("X-Signature: 0\r\n"), read),
        ("too much behind it", behind(&format!("A: {long}\r\n")), broken),
        ("too many fields behind it", behind(&many), broken),
        ("nonsense behind it", behind("\0\r\n"), broken),
        ("no size", format!("\r\n{body}{end}"), broken),
        ("letters", format!("zz\r\n{body}{end}"), broken),
        ("below 0", format!("-{n:x}\r\n{body}{end}"), broken),
        ("0x", format!("0x{n:x}\r\n{body}{end}"), broken),
        ("blanks in the size", format!("2 0\r\n{body}{end}"), broken),
        ("bare newlines", format!("{n:x}\n{body}\n0\n\n"), broken),
        ("one byte more than said", format!("{:x}\r\n{body}{end}", n - 1), broken),
        ("one byte less than said", format!("{:x}\r\n{body}{end}", n + 1), broken),
        ("no end", format!("{n:x}\r\n{body}\r\n"), broken),
        ("a size of 68 bits", format!("FFFFFFFFFFFFFFFFF\r\n{body}{end}"), broken),
        ("one beyond the limit", format!("10001\r\n{}{end}", " ".repeat(65_537)), &[TOO_LARGE]),
        ("beyond it, then a lie", format!("10002\r\n{}zz", " ".repeat(65_538)), &[TOO_LARGE]),
    ] {
        let signed = door.signed(&body) + "Transfer-Encoding: chunked\r\n";
        let request = format!("POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n{signed}\r\n{chunks}");
        door.hears(case, request + BEHIND, expected).await;
    }
    let largest = body.clone() + &" ".repeat(65_536 - n);
    let signed = door.signed(&largest) + "Transfer-Encoding: chunked\r\n";
    let request = format!(
        "POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n{signed}\r\n10000\r\n{largest}{end}{BEHIND}"
    );
    door.hears("the largest", request, read).await;
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn only_chunks_are_a_transfer_coding() {
    let mut door = Door::open().await;
    let body = status("j", "queued");
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let read = &[RECEIVED, NOT_FOUND][..];
    let other = &[OTHER_CODING][..];
    let refused = &[BAD_REQUEST][..];
    for (codings, expected) in [
        (&["chunked"][..], read),
        (&["CHUNKED"], read),
        (&[" \tchunked \t"], read),
        (&["gzip, chunked"], other),
        (&["identity, chunked"], other),
        (&["chunked, chunked"], other),
        (&["chunked", "chunked"], other),
        (&["gzip", "chunked"], other),
        (&["", "chunked"], other),
        (&[",chunked"], other),
        (&["a;b=c, chunked"], other),
        (&["chunked", "identity"], refused),
        (&["chunked, gzip"], refused),
        (&["chunked;a=b"], refused),
        (&["chunked,"], refused),
        (&["identity"], refused),
        (&[""], refused),
    ] {
        let fields: String =
            codings.iter().map(|coding| format!("Transfer-Encoding: {coding}\r\n")).collect();
        let signed = door.signed(&body);
        let request = format!(
            "POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n{fields}{signed}\r\n{chunks}{BEHIND}"
        );
        door.hears(&fields, request, expected).await;
    }
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn what_never_arrives_is_given_up() {
    let patience = Stack::builder()
        .env("BODY_TIMEOUT", "300ms")
        .env("HEADER_TIMEOUT", "1s")
        .env("SILENCE_TIMEOUT", "1s");
    let mut door = Door::of(patience).await;
    let body = status("j", "queued");
    let signed = door.signed(&body);
    let length = format!("Content-Length: {}\r\n", body.len() + BEHIND.len() + 1);
    let chunked = "Transfer-Encoding: chunked\r\n".to_owned();
    for (case, fields, sent) in [
        ("a body without its last byte", length, body.clone()),
        ("an absurd chunk", chunked.clone(), format!("FFFFFFFFFFFFFFFF\r\n{body}\r\n0\r\n\r\n")),
        ("half a size", chunked, "1".to_owned()),
    ] {
        let request = format!("POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n{fields}{signed}\r\n");
        let behind = if case == "half a size" { "" } else { BEHIND };
        door.hears(case, request + &sent + behind, &[TOO_SLOW]).await;
    }
    for (case, said) in [("nothing", String::new()), ("half a head", head(5))] {
        door.hears(case, said, &[]).await;
    }
    door.leaves(&[]).await;
}

#[tokio::test]
async fn who_asks_before_sending_is_told_the_truth() {
    let mut door = Door::open().await;
    let body = status("j", "queued");
    let fields = door.signed(&body) + "Expect: 100-Continue\r\n";
    let asking = |line: &str, length: usize| {
        format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{fields}\r\n")
    };
    let mut raw = Raw::open(door.addr()).await;
    raw.say(asking(&format!("POST {CALLBACK_PATH}"), body.len())).await;
    assert!(raw.hear_head().await.starts_with("HTTP/1.1 100 "));
    raw.say(body.clone() + BEHIND).await;
    assert_eq!(answers(&raw.hear().await), [RECEIVED, NOT_FOUND]);
    door.has_stored("an announced body", 1).await;

    for (line, length, expected) in [
        ("POST /", body.len(), NOT_FOUND),
        (&format!("PUT {CALLBACK_PATH}"), body.len(), NOT_ALLOWED),
        (&format!("POST {CALLBACK_PATH}"), 65_537, TOO_LARGE),
    ] {
        let asked = asking(line, length);
        for (case, said) in [("waits", asked.clone()), ("does not wait", asked + &door.good())] {
            door.hears(&format!("{line}, {case}"), said, &[expected]).await;
        }
    }
    door.leaves(&["j"]).await;
}

#[tokio::test]
async fn no_body_is_read_as_a_request() {
    let mut door = Door::open().await;
    let good = door.good();
    let hidden = good.as_str();
    let n = hidden.len();
    let bad = good.replace("X-Signature: ", "X-Signature: 0");
    let large = " ".repeat(70_000) + hidden;
    let chunk = format!("{n:x}\r\n{hidden}\r\n0\r\n\r\n");
    let (put, post) = (format!("PUT {CALLBACK_PATH}"), format!("POST {CALLBACK_PATH}"));
    let begun = |line: &str, field: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let sized = |line: &str, n: usize| begun(line, &format!("Content-Length: {n}"));
    let chunked = |line: &str| begun(line, "Transfer-Encoding: chunked");
    let both = format!("Content-Length: {}\r\nTransfer-Encoding: chunked", chunk.len());
    let last = good.replace("Host", "Connection: close\r\nHost");
    let large_chunk = format!("{:x}\r\n{large}\r\n", large.len());
    for (case, said, expected) in [
        ("two good ones", good.clone(), &[RECEIVED, RECEIVED, NOT_FOUND][..]),
        ("good, then bad", format!("{good}{bad}"), &[RECEIVED, UNSIGNED, RECEIVED, NOT_FOUND]),
        ("a last one", last, &[RECEIVED]),
        ("another path", sized("POST /", n) + hidden, &[NOT_FOUND, RECEIVED, NOT_FOUND]),
        ("another, chunked", chunked("POST /") + &chunk, &[NOT_FOUND, RECEIVED, NOT_FOUND]),
        ("another method", sized(&put, n) + hidden, &[NOT_ALLOWED, RECEIVED, NOT_FOUND]),
        ("not signed", sized(&post, n) + hidden, &[UNSIGNED, RECEIVED, NOT_FOUND]),
        ("too large", sized(&post, large.len()) + &large, &[TOO_LARGE]),
        ("too large, chunked", chunked(&post) + &large_chunk + &chunk, &[TOO_LARGE]),
        ("broken chunks", chunked(&post) + "1\r\n" + hidden, &[BROKEN]),
        ("both a length and chunks", begun(&post, &both) + &chunk, &[UNSIGNED]),
        (
            "chunks and a length",
            begun(&post, "Transfer-Encoding: chunked\r\nContent-Length: 5") + "0\r\n\r\n",
            &[UNSIGNED],
        ),
        ("chunks in HTTP/1.0", chunked(&post).replacen("1.1", "1.0", 1) + &chunk, &[BAD_REQUEST]),
    ] {
        door.hears(case, said + &good + BEHIND, expected).await;
    }
    door.leaves(&["j"]).await;
}
