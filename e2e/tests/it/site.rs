//! A server of a test's own, for what looks at servers: it answers what a function says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Listens on a port of its own until it is dropped.
pub(crate) struct Site {
    pub(crate) addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Site {
    pub(crate) async fn start(
        answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| {
                    let answer = answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    let mut http = http1::Builder::new();
                    // A client that goes away in the middle is no concern of the test's.
                    let _ = http
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { addr, _tasks: tasks })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// An answer with this status, type and body.
pub(crate) fn answer(status: u16, kind: &str, body: impl Into<Bytes>) -> Answer {
    let response = Response::builder().status(status).header("content-type", kind);
    response.body(Full::new(body.into())).expect("the parts are valid")
}
