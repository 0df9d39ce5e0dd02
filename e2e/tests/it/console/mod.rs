//! The console in a real browser, and its API as programs use it.

mod api;
mod busy;
mod guard;
mod hostile;
mod letters;
mod list;
mod live;
mod schema;
mod stream;

use bytes::Bytes;
use e2e::http::{Answer, Client};
use e2e::stack::Stack;
use hyper::Method;
use serde_json::Value;

/// What the console of a guarded stack asks for.
const TOKEN: &str = "a-token-of-this-test";

/// A stack whose console asks for [`TOKEN`].
async fn guarded() -> Stack {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let file = file.to_str().unwrap();
    let builder = Stack::builder().partitions(1).env("CONSOLE_TOKEN_FILE", file);
    builder.start().await.unwrap()
}

/// Where the console of the stack's worker is.
fn base(stack: &Stack) -> String {
    format!("http://{}", stack.worker.ops)
}

async fn get(stack: &Stack, path: &str) -> Answer {
    e2e::http::get(stack.worker.ops, path).await.unwrap()
}

/// What the API answers, which must be this status.
async fn json(stack: &Stack, path: &str, status: u16) -> Value {
    let answer = get(stack, path).await;
    assert_eq!(answer.status, status, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn post(stack: &Stack, path: &str, headers: &[(&str, &str)]) -> Answer {
    Client::new(stack.worker.ops).send(Method::POST, path, headers, Bytes::new()).await.unwrap()
}
