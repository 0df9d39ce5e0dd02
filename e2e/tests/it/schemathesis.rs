//! The harness that compares an API with its document sees every difference, and none where none is.

use anyhow::Result;
use e2e::schemathesis::{Api, Report};
use hyper::Method;
use hyper::header::{ALLOW, AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use crate::site::{Site, answer};

const TOKEN: &str = "Bearer never-log-this-token-77ce";

/// What the API answers to a digit.
type Body = fn(&str) -> String;

/// The API of one digit.
fn document() -> Value {
    let digit = json!({ "type": "integer", "minimum": 1, "maximum": 9 });
    let answer =
        json!({ "type": "object", "required": ["digit"], "properties": { "digit": digit } });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Digits", "version": "1" },
        "paths": { "/digits/{digit}": { "get": {
            "parameters": [{ "name": "digit", "in": "path", "required": true, "schema": digit }],
            "security": [{ "token": [] }],
            "responses": {
                "200": { "description": "It is one.", "content": { "application/json": { "schema": answer } } },
                "400": { "description": "It is none." },
                "401": { "description": "The token is missing." },
            },
        } } },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
    })
}

/// Compares that document, or another, with an API that answers this when it is asked for a digit.
async fn compare(document: Value, status: u16, body: Body) -> Result<Report> {
    compare_guarded(document, 401, status, body).await
}

/// The same, with what the API answers to those who have no token.
async fn compare_guarded(document: Value, refusal: u16, status: u16, body: Body) -> Result<Report> {
    let document = document.to_string();
    let site = Site::start(move |request| {
        let json = "application/json";
        if request.headers().get(AUTHORIZATION).is_none_or(|token| token != TOKEN) {
            return answer(refusal, json, digit("1"));
        }
        let Some(digit) = request.uri().path().strip_prefix("/api/digits/") else {
            return answer(200, json, document.clone());
        };
        if request.method() != Method::GET {
            let mut refusal = answer(405, json, "{}");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return refusal;
        }
        match digit.as_bytes() {
            [b'1'..=b'9'] => answer(status, json, body(digit)),
            _ => answer(400, json, "{}"),
        }
    })
    .await?;
    let dir = tempfile::tempdir()?;
    let api = Api::new(site.url("/openapi.json"), site.url("/api")).max_examples(10);
    api.header("Authorization", TOKEN).check(dir.path()).await
}

fn digit(digit: &str) -> String {
    json!({ "digit": digit.parse::<u8>().unwrap() }).to_string()
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn an_api_that_does_what_its_document_says_passes() -> Result<()> {
    let report = compare(document(), 200, digit).await?;
    assert_eq!(report.operations, 1);
    assert!(report.cases > 10, "{report:?}");
    assert!(report.warnings.is_empty(), "{report:?}");
    Ok(())
}

#[tokio::test]
async fn an_api_that_differs_from_its_document_is_reported() -> Result<()> {
    let result = compare(document(), 500, digit).await;
    assert_complains(result, "Server error");
    Ok(())
}

fn assert_complains(result: Result<Report>, expected: &str) {
    let complaint = format!("{:#}", result.expect_err(expected));
    assert!(complaint.contains(expected), "{expected}: {complaint}");
    assert!(!complaint.contains(TOKEN), "{expected}: {complaint}");
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn every_difference_of_an_api_is_reported() -> Result<()> {
    let mut empty = document();
    empty["paths"] = json!({});
    let cases: [(_, _, Body, _); 4] = [
        (document(), 202, digit, "Undocumented status code"),
        (document(), 200, |_| r#"{"digit":"one"}"#.to_owned(), "Response violates schema"),
        (document(), 200, |_| r#"{"digit":"#.to_owned(), "JSON deserialization error"),
        (empty, 200, digit, "defines no API operations"),
    ];
    for (document, status, body, expected) in cases {
        assert_complains(compare(document, status, body).await, expected);
    }
    let result = compare_guarded(document(), 200, 200, digit).await;
    assert_complains(result, "API accepts requests without authentication");
    Ok(())
}

#[tokio::test]
async fn an_api_elsewhere_is_never_asked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let api = Api::new("http://127.0.0.1:1/openapi.json", "http://elsewhere.example");
    let complaint = format!("{:#}", api.check(dir.path()).await.expect_err("it is elsewhere"));
    assert_eq!(complaint, "http://elsewhere.example is not on this machine");
    Ok(())
}
