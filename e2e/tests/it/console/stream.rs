//! The stream of events: nothing is missing in it, also after an interruption.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use e2e::stack::{Db, Stack};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::expect::*;

/// A reader of the stream.
struct Reader {
    body: Incoming,
    text: String,
    _sender: http1::SendRequest<Empty<Bytes>>,
}

/// One message of it.
#[derive(Debug)]
struct Message {
    event: String,
    id: Option<String>,
    data: Value,
}

impl Reader {
    async fn connect(ops: SocketAddr, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(ops).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get("/api/v1/stream").header(HOST, ops.to_string());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body(), text: String::new(), _sender: sender }
    }

    async fn next(&mut self) -> Message {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let fields: Vec<_> =
                    message.lines().filter_map(|line| line.split_once(": ")).collect();
                let field = |name: &str| fields.iter().find(|(found, _)| *found == name);
                let message = field("event").map(|(_, event)| Message {
                    event: (*event).to_owned(),
                    id: field("id").map(|(_, id)| (*id).to_owned()),
                    data: serde_json::from_str(field("data").unwrap().1).unwrap(),
                });
                self.text = rest.to_owned();
                // Others are there to keep the connection alive.
                if let Some(message) = message {
                    return message;
                }
                continue;
            }
            let frame = self.body.frame().await.unwrap();
            self.text += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
        }
    }

    /// Reads up to the checkpoint that is everything, and returns where it is and the events.
    async fn until(&mut self, events: usize) -> (String, Vec<Value>) {
        let mut seen = Vec::new();
        let reading = async {
            loop {
                let message = self.next().await;
                match message.event.as_str() {
                    "event" => seen.push(message.data),
                    _ if seen.len() >= events => break message.id.unwrap(),
                    _ => {}
                }
            }
        };
        let at = timeout(SOON, reading).await;
        (at.unwrap_or_else(|_| panic!("only {} of {events} came", seen.len())), seen)
    }
}

fn statuses(events: &[Value]) -> HashMap<String, Vec<String>> {
    let mut jobs: HashMap<String, Vec<String>> = HashMap::new();
    for event in events {
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        jobs.entry(text("job_id")).or_default().push(text("kind"));
    }
    jobs
}

on_each_database!(the_stream_tells_every_event_in_order_and_goes_on_where_it_was_interrupted);

async fn the_stream_tells_every_event_in_order_and_goes_on_where_it_was_interrupted(db: Db) {
    let stack = Stack::builder().db(db).partitions(4).start().await.unwrap();
    let ops = stack.worker.ops;
    let ids: Vec<_> = (0..20).map(|n| format!("job-{n}")).collect();
    let mut reader = Reader::connect(ops, None).await;
    let first = reader.next().await;
    assert_eq!(
        (first.event.as_str(), &first.data["partitions"]),
        ("checkpoint", &Value::Array(vec![]))
    );

    for id in &ids {
        accept(&stack, status(id, "queued")).await;
        accept(&stack, status(id, "provisioning")).await;
        accept(&stack, heartbeat(id)).await;
    }
    let (at, seen) = reader.until(40).await;
    assert_eq!(seen.len(), 40);
    let jobs = statuses(&seen);
    assert!(ids.iter().all(|id| jobs[id] == ["queued", "provisioning"]), "{jobs:?}");

    // While nobody reads, the rest happens.
    drop(reader);
    for id in &ids {
        accept(&stack, status(id, "running")).await;
    }
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    let mut reader = Reader::connect(ops, Some(&at)).await;
    let (_, seen) = reader.until(20).await;
    assert_eq!(seen.len(), 20);
    let jobs = statuses(&seen);
    assert!(ids.iter().all(|id| jobs[id] == ["running"]), "{jobs:?}");
}

#[tokio::test]
async fn readers_leave_room_for_probes_and_end_with_the_worker() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    let mut readers = Vec::new();
    for _ in 0..32 {
        readers.push(Reader::connect(stack.worker.ops, None).await);
    }
    let refused = super::get(&stack, "/api/v1/stream").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(super::get(&stack, "/readyz").await.status, 200);
    // Those who decide something have places of their own.
    let decided = super::post(&stack, "/api/v1/dead-letters/00-1-0/requeue", &[]).await;
    assert_eq!(decided.status, 404);
    // A place is free again soon after its reader is gone.
    readers.pop();
    stack
        .wait_until("a place is free", SOON, async || {
            super::get(&stack, "/api/v1/jobs/none?wait=1s&until=finished").await.status == 404
        })
        .await;
    stack.shut_down().await.unwrap();
}
