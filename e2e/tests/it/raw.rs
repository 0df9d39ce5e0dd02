//! Connections on which a test says exactly what it wants, byte by byte.

use std::net::SocketAddr;

use e2e::stack::CALLBACK_PATH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::expect::SOON;

pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn open(to: SocketAddr) -> Self {
        Self(TcpStream::connect(to).await.unwrap())
    }

    /// Says all of this, as far as the server still listens; what it answers can be heard anyway.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// Everything until the server closes.
    pub(crate) async fn hear(mut self) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, self.0.read_to_end(&mut answer));
        read.await.expect("the server closes").expect("the server does not reset");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The next head.
    pub(crate) async fn hear_head(&mut self) -> String {
        let mut head = String::new();
        let hearing = async {
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(self.0.read_u8().await.expect("a whole head")));
            }
        };
        tokio::time::timeout(SOON, hearing).await.expect("the server answers");
        head
    }
}

/// The beginning of a head; more fields and an empty line follow.
pub(crate) fn head(length: usize) -> String {
    format!("POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n")
}

/// The answers in what was heard, each as its status and body.
pub(crate) fn answers(heard: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut rest = heard;
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").expect("a whole head");
        let status = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
        let status = &status.expect("an answer")[..3];
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| Some(line.strip_prefix("content-length: ")?.parse().unwrap()))
            .unwrap_or(0);
        let (body, after) = after.split_at(length);
        answers.push(format!("{status} {body}").trim_end().to_owned());
        rest = after;
    }
    answers
}
