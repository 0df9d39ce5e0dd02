//! Who is answered, and for whom nothing is changed.

use std::fmt::Write as _;
use std::time::Instant;

use bytes::Bytes;
use e2e::http::Client;
use e2e::stack::Stack;
use hyper::Method;

use super::{TOKEN, get, guarded, post};
use crate::expect::{SOON, run, series};

#[tokio::test]
async fn a_page_of_another_origin_reads_nothing_and_changes_nothing() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let ops = stack.worker.ops;
    // A name that an attacker's server gave this machine's address.
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/api/v1/jobs"),
        (Method::GET, "/api/v1/stream"),
        (Method::GET, "/assets/console.css"),
        (Method::POST, "/api/v1/dead-letters/00-1-0/requeue"),
    ] {
        let rebound = [("host", "attacker.example")];
        let answer =
            Client::new(ops).send(method.clone(), path, &rebound, Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    // Without the guard this one would be 404: there is no such dead letter.
    let requeue = "/api/v1/dead-letters/00-1-0/requeue";
    let own = format!("http://{ops}");
    assert_eq!(post(&stack, requeue, &[]).await.status, 404);
    assert_eq!(post(&stack, requeue, &[("origin", &own)]).await.status, 404);
    for foreign in [
        ("origin", "http://attacker.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let answer = post(&stack, requeue, &[foreign]).await;
        assert_eq!(answer.status, 403, "{foreign:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    // What Prometheus and probes ask is not the console's.
    let rebound = [("host", "worker.internal")];
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer =
            Client::new(ops).send(Method::GET, path, &rebound, Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn every_answer_forbids_what_the_pages_do_not_need() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    for path in ["/", "/jobs", "/job?id=none", "/assets/console.js", "/api/v1/jobs", "/nothing"] {
        let answer = get(&stack, path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
}

#[tokio::test]
async fn a_worker_that_others_can_reach_starts_only_with_a_token() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let start = async |env: &[(&str, &str)]| {
        let program = stack.program("ackline-worker").unwrap().envs(env.iter().copied());
        run(&stack, &program).await
    };
    let listen = ("OPS_LISTEN", "0.0.0.0:0");
    let (code, said) = start(&[listen]).await;
    assert!(code == 2 && said.contains("CONSOLE_TOKEN_FILE"), "{code:?} {said}");
    let file = stack.dir().join("token");
    for (token, why) in [("hunter2", "at least 16 characters"), ("", "is empty")] {
        std::fs::write(&file, token).unwrap();
        let (code, said) = start(&[listen, ("CONSOLE_TOKEN_FILE", file.to_str().unwrap())]).await;
        assert!(code == 2 && said.contains(why), "{code:?} {said}");
        assert!(token.is_empty() || !said.contains(token), "{said}");
    }
    for (name, value, why) in [
        ("REPOSITORY_URL", "javascript:alert(1)", "https://github.com/OWNER/NAME"),
        ("INGRESS_OPS", "127.0.0.1", "HOST:PORT"),
    ] {
        let (code, said) = start(&[(name, value)]).await;
        assert!(code == 2 && said.contains(why) && said.contains(name), "{code:?} {said}");
    }
}

#[tokio::test]
async fn a_login_leads_to_a_page_of_ours() {
    let stack = guarded().await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (next, expected) in [
        ("/jobs?status=failed&search=a%20b", "/jobs?status=failed&search=a%20b"),
        ("/", "/"),
        ("", "/"),
        ("jobs", "/"),
        ("//evil.example/x", "/"),
        ("/\t/evil.example/x", "/"),
        ("\t//evil.example/x", "/"),
        ("/\n/evil.example/x", "/"),
        ("/\r\nset-cookie: a=b", "/"),
        ("/\0", "/"),
        ("/\x7f", "/"),
        ("/\u{85}/evil.example", "/"),
        ("/ü", "/"),
        ("/ /evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/jobs\\..\\..\\evil.example", "/"),
        ("http://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
    ] {
        let next = next.bytes().fold(String::new(), |mut all, byte| {
            write!(all, "%{byte:02X}").unwrap();
            all
        });
        let body = format!("token={TOKEN}&next={next}").into();
        let mut client = Client::new(stack.worker.ops);
        let answer = client.send(Method::POST, "/login", &form, body).await.unwrap();
        assert_eq!((answer.status, answer.header("location")), (303, expected), "{next}");
        // The form names the page that it will lead to.
        let page = get(&stack, &format!("/login?next={next}")).await;
        assert_eq!(page.status, 200, "{next}");
        let shown = expected.replace('&', "&amp;");
        assert!(page.text().contains(&format!(r#"name="next" value="{shown}""#)), "{next}");
    }
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_counted_and_logged() {
    let stack = guarded().await;
    let mut client = Client::new(stack.worker.ops);
    let mut ask = async |token: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {token}");
        let headers = [&[("authorization", &*bearer)], more].concat();
        client.send(Method::GET, "/api/v1/jobs", &headers, Bytes::new()).await.unwrap()
    };
    let began = Instant::now();
    let (mut wrong, mut unasked) = (0, 0);
    for n in 0..300 {
        match ask(&format!("a-guess-of-this-test-{n}"), &[]).await {
            answer if answer.status == 401 => wrong += 1,
            answer => {
                unasked += 1;
                assert_eq!(answer.status, 429, "{}", answer.text());
                assert!(answer.text().contains("too many wrong tokens came from this address"));
                assert!(["1", "2", "3"].contains(&answer.header("retry-after")));
            }
        }
    }
    let more = began.elapsed().as_secs() / 3 + 1;
    assert!((20..=20 + more).contains(&wrong), "{wrong} were compared");
    // Nor is a right one compared, but from elsewhere it is; no cookie and no form is a way round.
    assert_eq!(ask(TOKEN, &[]).await.status, 429);
    assert_eq!(ask(TOKEN, &[("x-forwarded-for", "127.0.0.1, 10.1.2.3")]).await.status, 200);
    unasked += 1;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("token={TOKEN}");
    let mut other = Client::new(stack.worker.ops);
    let login = other.send(Method::POST, "/login", &form, body.into()).await.unwrap();
    assert_eq!(login.status, 429);
    assert!(
        login.text().contains("too many wrong tokens") && !login.header("retry-after").is_empty()
    );
    let cookie = [("cookie", "ackline_session=0123")];
    let page = other.send(Method::GET, "/", &cookie, Bytes::new()).await.unwrap();
    assert_eq!(page.status, 429);
    unasked += 2;

    let counted = async |reason| {
        series(stack.worker.ops, "ackline_worker_console_refused_total", &[("reason", reason)])
            .await
    };
    assert_eq!(counted("wrong_token").await, wrong as f64);
    assert_eq!(counted("too_many").await, f64::from(unasked));
    let log = stack.worker.process.log().text();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("a wrong token was shown to the console"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at_most = began.elapsed().as_secs() / 10 + 1;
    assert!((1..=at_most).contains(&(lines.len() as u64)), "{lines:?}");
    assert_eq!((&lines[0]["address"], &lines[0]["level"]), (&"127.0.0.1".into(), &"WARN".into()));
    assert!(!log.contains("a-guess-of-this-test") && !log.contains(TOKEN), "{log}");
    stack
        .wait_until("the right token is compared again", SOON, async || {
            ask(TOKEN, &[]).await.status == 200
        })
        .await;
}

#[tokio::test]
async fn a_browser_forgets_a_cookie_that_is_out_of_date() {
    let stack = guarded().await;
    for (path, status) in [("/jobs", 303), ("/api/v1/jobs", 401)] {
        let cookie = [("cookie", "ackline_session=0123")];
        let mut client = Client::new(stack.worker.ops);
        let answer = client.send(Method::GET, path, &cookie, Bytes::new()).await.unwrap();
        assert_eq!(answer.status, status);
        assert!(answer.header("set-cookie").starts_with("ackline_session=; Max-Age=0;"), "{path}");
        let answer = client.send(Method::GET, path, &[], Bytes::new()).await.unwrap();
        assert_eq!((answer.status, answer.header("set-cookie")), (status, ""), "{path}");
    }
}
