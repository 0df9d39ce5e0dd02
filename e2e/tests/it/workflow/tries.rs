//! What the action does with each answer, and what it sends again. The answers are those of load
//! balancers and other servers in between, which ingress itself does not give.

use e2e::stack::{Db, Stack, sign};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

/// A server in front of ingress that gives answers of its own.
struct Answering {
    listener: TcpListener,
}

impl Answering {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.listener.local_addr().unwrap())
    }

    /// Takes one request and answers it: its signature and its body.
    async fn answer(&self, answer: &str) -> (String, String) {
        self.answer_with(answer, "").await
    }

    async fn answer_with(&self, answer: &str, text: &str) -> (String, String) {
        let (connection, _) = self.listener.accept().await.unwrap();
        let mut connection = BufReader::new(connection);
        let (mut length, mut signature) = (0, String::new());
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                if line.trim_end().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "x-signature" => value.clone_into(&mut signature),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.unwrap();
        let answer = format!(
            "HTTP/1.1 {answer}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        connection.write_all(answer.as_bytes()).await.unwrap();
        (signature, String::from_utf8(body).unwrap())
    }
}

/// A callback that is tried for longer than the replay window must not end as a forgery.
#[tokio::test]
async fn every_try_has_the_same_id_and_a_time_and_signature_of_its_own() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let server = Answering::start().await;
    let status = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_CALLBACK_URL", &*server.url())];
    let program = step(&stack, "tries", &status);
    let mut tries = Vec::new();
    for answer in
        ["429 Too Many Requests\r\nRetry-After: 2", "408 Request Timeout", "204 No Content"]
    {
        let (signature, body) = server.answer(answer).await;
        assert_eq!(signature, sign(stack.secret(), body.as_bytes()), "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["job_id"], &body["status"]), (&"job".into(), &"provisioning".into()));
        tries.push((signature, body));
    }
    let output = step_succeeds(program).await;
    assert!(output.contains("the server answered 429; trying again in 2 s"), "{output}");
    for pair in tries.windows(2) {
        assert_ne!(pair[0].0, pair[1].0);
        assert_eq!(pair[0].1["event_id"], pair[1].1["event_id"]);
        assert!(pair[0].1["sent_at"].as_i64() < pair[1].1["sent_at"].as_i64(), "{tries:?}");
    }
    let (_, body) =
        tokio::join!(finished(step(&stack, "another", &status)), server.answer("200 OK"),).1;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_ne!(body["event_id"], tries[0].1["event_id"], "each callback has an id of its own");
}

#[tokio::test]
async fn trying_ends_at_the_deadline_whatever_the_server_asks_for() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let server = Answering::start().await;
    let status = [
        ("ACKLINE_STATUS", "provisioning"),
        ("ACKLINE_CALLBACK_URL", &*server.url()),
        ("ACKLINE_DEADLINE", "3"),
    ];
    let program = step(&stack, "deadline", &status);
    let patient = "503 Service Unavailable\r\nRetry-After: 86400";
    let (first, _) = server.answer(patient).await;
    let (last, _) = server.answer(patient).await;
    assert_ne!(first, last);
    let output = step_fails(program).await;
    assert!(output.contains("gave up after 3 s: the server answered 503"), "{output}");
}

/// Whoever could redirect a callback would be given a signed one.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let server = Answering::start().await;
    let status = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_CALLBACK_URL", &*server.url())];
    let program = step(&stack, "redirected", &status);
    let answer = format!("307 Temporary Redirect\r\nLocation: {}", stack.callback_url());
    server.answer(&answer).await;
    let output = step_fails(program).await;
    assert!(output.contains("the server answered 307, and redirects are not followed"), "{output}");
    assert!(events(&stack.db().await.unwrap()).await.is_empty());
}

/// Cloudflare and other proxies have answers of their own for a server that is away.
#[tokio::test]
async fn an_answer_that_passes_by_itself_is_not_the_last() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let passing = [425, 500, 502, 504, 520, 521, 522, 523, 524, 525, 529, 530, 598, 599];
    let tries = passing.map(async |code| {
        let server = Answering::start().await;
        let status = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_CALLBACK_URL", &*server.url())];
        let program = step(&stack, &format!("passing-{code}"), &status);
        server.answer(&format!("{code} Away")).await;
        let second = tokio::time::timeout(SOON, server.answer("200 OK")).await;
        assert!(second.is_ok(), "{code}: {}", program.log().text());
        let output = step_succeeds(program).await;
        let said = format!("Ackline: the server answered {code}; trying again in 1 s\n");
        assert!(output.contains(&said), "{output}");
    });
    futures::future::join_all(tries).await;
}

#[tokio::test]
async fn an_answer_that_stays_is_the_last() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let staying = [403, 404, 409, 413, 501, 505, 511, 526];
    let tries = staying.map(async |code| {
        let server = Answering::start().await;
        let status = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_CALLBACK_URL", &*server.url())];
        let program = step(&stack, &format!("staying-{code}"), &status);
        server.answer(&format!("{code} No")).await;
        let output = step_fails(program).await;
        let said = format!("provisioning was not confirmed: the server answered {code}\n");
        assert!(output.ends_with(&said), "{output}");
    });
    futures::future::join_all(tries).await;
}

/// The words of a refusal arrive as they are, without what runners would take for a command.
#[tokio::test]
async fn the_words_of_a_refusal_are_plain_text() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let server = Answering::start().await;
    let status = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_CALLBACK_URL", &*server.url())];
    let program = step(&stack, "words", &status);
    server.answer_with("400 Bad Request", "{\"error\":\t\"no: ##[x] ü\u{1b}[31m\"}\n").await;
    let output = step_fails(program).await;
    let said = "the server answered 400: {\"error\": \"no: ## [x]    [31m\"}\n";
    assert!(output.ends_with(said), "{output}");
}
