//! The harness for tests in a browser sees what is wrong with a page, and nothing where nothing is.

use anyhow::Result;
use e2e::browser::Browser;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use rstest::rstest;
use serde_json::{Value, json};

use crate::site::{Answer, Site, answer};

/// As strict as a page's can be: what judges the page must not need more.
const POLICY: &str = "default-src 'none'; script-src 'self'; img-src http:; connect-src ws:; \
    require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page with this in its body, and this as its script.
async fn site(body: &'static str, script: &'static str) -> Result<Site> {
    Site::start(move |request| match request.uri().path() {
        "/" => page(body),
        "/page.js" => answer(200, "text/javascript", script),
        "/empty" => answer(204, "text/plain", ""),
        _ => answer(404, "text/plain", "there is nothing here"),
    })
    .await
}

fn page(body: &str) -> Answer {
    let html = format!(
        r#"<!doctype html><html lang="en"><head><title>A page</title></head>
        <body><main><h1>A page</h1>{body}</main><script src="/page.js"></script></body></html>"#
    );
    let mut answer = answer(200, "text/html; charset=utf-8", html);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer
}

/// What the harness sees of such a page, once its buttons were pressed and the expected troubles came.
async fn look(
    browser: &Browser,
    body: &'static str,
    script: &'static str,
    expected: &[&str],
) -> Result<Value> {
    let site = site(body, script).await?;
    let parameters = json!({ "url": site.url("/"), "expected": expected, "patience_ms": 1_000 });
    browser.run("harness.mjs", &parameters).await
}

/// The complaint about it.
async fn complaint(browser: &Browser, script: &'static str, expected: &[&str]) -> String {
    let seen = look(browser, "", script, expected).await;
    format!("{:#}", seen.expect_err("the page has a trouble"))
}

#[tokio::test]
async fn what_is_wrong_with_a_page_is_seen_and_nothing_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let browser = Browser::start(dir.path()).await?;
    let script = "document.querySelector('button').onclick = () => { document.title = 'Pressed' }";
    let seen = look(&browser, "<button>Press</button>", script, &[]).await?;
    assert_eq!(seen, json!({ "title": "Pressed", "violations": [] }));

    let seen = look(&browser, "<button></button>", "", &[]).await?;
    let violations = seen["violations"].as_array().unwrap();
    let [violation] = violations.as_slice() else { panic!("{seen:#}") };
    assert_eq!(violation["id"], "button-name");
    assert_eq!(violation["impact"], "critical");
    assert_eq!(violation["nodes"][0]["html"], "<button></button>");

    let script = "document.title = 'Said'; console.error('deliberate')";
    let seen = look(&browser, "", script, &["error: deliberate"]).await?;
    assert_eq!(seen["title"], "Said");
    // An expected trouble must come.
    let complaint = complaint(&browser, "console.error('deliberate')", &["error: other"]).await;
    assert!(complaint.contains("there was no trouble like /error: other/"), "{complaint}");
    assert!(complaint.contains("trouble: console error: deliberate"), "{complaint}");
    Ok(())
}

#[rstest]
#[case::an_error(&[("console.error('deliberate')", "console error: deliberate")])]
#[ignore = "long: make test-console"]
#[case::any(&[
    ("console.warn('deliberate')", "console warning: deliberate"),
    ("throw new Error('deliberate')", "error on the page: Error: delib"),
    ("new Image().src = '/missing.png'", "the server responded with a status of 404"),
    // Reserved for such a purpose; and nothing that is not on this machine is ever looked for.
    ("new Image().src = 'http://elsewhere.example/'", "another origin: http://elsewhere.ex"),
    ("new Image().src = 'http://elsewhere.example/'", "/: net::ERR_NAME_NOT_RESOLVED"),
    ("new WebSocket('ws://elsewhere.example/')", "another origin: ws://elsewhere.ex"),
    ("fetch('/empty').catch(() => {})", "Content Security Policy"),
    ("eval('1')", "TrustedScript"),
])]
#[tokio::test]
async fn a_trouble_of_a_page_fails_the_test(
    #[case] troubles: &[(&'static str, &str)],
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let browser = Browser::start(dir.path()).await?;
    for (script, expected) in troubles {
        let complaint = complaint(&browser, script, &[]).await;
        assert!(complaint.contains("pages were in trouble"), "{script}: {complaint}");
        assert!(complaint.contains(expected), "{script}: {complaint}");
    }
    Ok(())
}
