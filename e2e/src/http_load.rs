//! Sends requests that were made beforehand, as fast as they are answered or at a given rate, with
//! as little work of its own as possible: it shares the machine with what it measures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stack::{CALLBACK_PATH, sign};

/// An answer that takes longer than this is counted as none.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Signed requests, as they go over the wire.
#[derive(Debug)]
pub struct Requests(Vec<Vec<u8>>);

impl Requests {
    /// Signs each body.
    pub fn new(secret: &str, bodies: impl IntoIterator<Item = String>) -> Arc<Self> {
        let request = |body: String| {
            let signature = sign(secret, body.as_bytes());
            let length = body.len();
            format!(
                "POST {CALLBACK_PATH} HTTP/1.1\r\nhost: ackline.example\r\nuser-agent: curl/8.5.0\r\n\
                 accept: */*\r\ncontent-type: application/json\r\nx-signature: {signature}\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        Arc::new(Self(bodies.into_iter().map(request).collect()))
    }
}

/// How requests follow each other.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection sends as soon as it has its answer, until the time is over; the requests are
    /// repeated as often as needed.
    AsAnswered(Duration),
    /// So many in a second over all connections, each request once, whether those before it are
    /// answered or not as long as a connection is free. Waiting for one counts as latency.
    PerSecond(f64),
}

/// One request that was answered with 200.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// Which of the requests.
    pub request: usize,
    /// When it was due, in Unix microseconds.
    pub due_us: i64,
    /// From then to its answer.
    pub took: Duration,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Outcome {
    /// Those that were answered with 200, the quickest first.
    pub answered: Vec<Answered>,
    /// From the first request to the last answer.
    pub lasted: Duration,
}

impl Outcome {
    /// Answers of 200 in a second.
    pub fn per_second(&self) -> f64 {
        self.answered.len() as f64 / self.lasted.as_secs_f64()
    }

    /// The latency that this part of the requests, 0 to 1, is not above, in milliseconds.
    pub fn quantile_ms(&self, part: f64) -> Result<f64> {
        let answered = quantile(&self.answered, part).context("nothing was answered")?;
        Ok(answered.took.as_secs_f64() * 1000.0)
    }
}

/// The one that this part of them, 0 to 1, is not above. They are in order.
pub fn quantile<T>(ordered: &[T], part: f64) -> Option<&T> {
    let count = (part * ordered.len() as f64).ceil() as usize;
    ordered.get(count.saturating_sub(1))
}

/// Sends them from a thread of its own; the connections are spread over the targets.
pub async fn send(
    targets: &[SocketAddr],
    requests: &Arc<Requests>,
    connections: usize,
    pace: Pace,
) -> Result<Outcome> {
    let (targets, requests) = (targets.to_vec(), Arc::clone(requests));
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send_all(targets, requests, connections, pace))
    })
    .await?
}

async fn send_all(
    targets: Vec<SocketAddr>,
    requests: Arc<Requests>,
    connections: usize,
    pace: Pace,
) -> Result<Outcome> {
    let mut streams = Vec::new();
    for target in targets.iter().cycle().take(connections) {
        let stream = TcpStream::connect(target).await.context("can't connect")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let began = Instant::now();
    let began_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let began_us = i64::try_from(began_us)?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for stream in streams {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        senders.spawn(async move {
            let mut connection = Connection { stream, read: Vec::with_capacity(4096) };
            let mut answered = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = match pace {
                    Pace::AsAnswered(lasting) if began.elapsed() < lasting => Instant::now(),
                    Pace::PerSecond(rate) if number < requests.0.len() => {
                        let due = began + Duration::from_secs_f64(number as f64 / rate);
                        if due > Instant::now() {
                            tokio::time::sleep_until(due.into()).await;
                            // The timer is late by up to a millisecond, which is not the server's.
                            Instant::now()
                        } else {
                            due
                        }
                    }
                    _ => return Ok(answered),
                };
                let request = number % requests.0.len();
                let answer = connection.exchange(&requests.0[request]);
                let status =
                    tokio::time::timeout(ANSWER_LIMIT, answer).await.context("no answer")??;
                ensure!(status == 200, "{} answered {status}", connection.stream.peer_addr()?);
                let due_us = began_us + i64::try_from((due - began).as_micros())?;
                answered.push(Answered { request, due_us, took: due.elapsed() });
            }
        });
    }
    let mut answered = Vec::new();
    while let Some(sent) = senders.join_next().await {
        let sent: Result<Vec<Answered>> = sent?;
        answered.extend(sent?);
    }
    let lasted = began.elapsed();
    answered.sort_by_key(|answered| answered.took);
    Ok(Outcome { answered, lasted })
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Sends a request, reads the whole answer, and returns its status.
    async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.read.clear();
        let length = loop {
            if let Some(length) = answer_length(&self.read)? {
                break length;
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection was closed");
        };
        while self.read.len() < length {
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection was closed");
        }
        ensure!(self.read.len() == length, "more came than one answer");
        let status = self.read.get(9..12).context("no status")?;
        Ok(str::from_utf8(status)?.parse()?)
    }
}

/// How long the answer is that begins so, as soon as its head is there.
fn answer_length(read: &[u8]) -> Result<Option<usize>> {
    let Some(head) = read.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    for line in str::from_utf8(&read[..head])?.split("\r\n") {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(Some(head + 4 + value.parse::<usize>()?));
        }
    }
    bail!("an answer without a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";
        let head = answer.len() - 3;
        assert_eq!(answer_length(&answer[..head - 1]).unwrap(), None);
        assert_eq!(answer_length(&answer[..head]).unwrap(), Some(answer.len()));
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_quantile_is_one_of_the_latencies() {
        let answered = |ms| Answered { request: 0, due_us: 0, took: Duration::from_millis(ms) };
        let answered = (1..=100).map(answered).collect();
        let outcome = Outcome { answered, lasted: Duration::from_secs(1) };
        let of = |part| outcome.quantile_ms(part).unwrap();
        assert_eq!((of(0.5), of(0.99), of(0.999)), (50.0, 99.0, 100.0));
    }
}
