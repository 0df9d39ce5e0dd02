//! The accept loop, its limits, and the one path.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Refusal};
use crate::callback::{Door, refuse_unread};
use crate::config::Limits;

/// The largest head; also how much of a body a connection buffers.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is not in the middle of a request is left at the end.
const LINGER: Duration = Duration::from_secs(1);

struct Site {
    path: String,
    door: Door,
    http: http1::Builder,
    shutdown: CancellationToken,
}

/// Serves the listener until `shutdown`; returns the connections that are still open then, which
/// end with the requests in flight on them.
pub(crate) async fn accept(
    listener: TcpListener,
    path: String,
    door: Door,
    limits: Limits,
    shutdown: &CancellationToken,
) -> TaskTracker {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    let site = Arc::new(Site { path, door, http, shutdown: shutdown.clone() });
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    let mut accepting = true;
    loop {
        // With the permit first, connections beyond the limit wait in the kernel's queue.
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                accepting = true;
                let site = Arc::clone(&site);
                connections.spawn(async move {
                    site.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if std::mem::take(&mut accepting) {
                    tracing::warn!(%error, "can't accept connections: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections
}

impl Site {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        // Only costs some latency where it fails.
        let _ = stream.set_nodelay(true);
        let busy = AtomicBool::new(false);
        let service = service_fn(async |request| {
            busy.store(true, Ordering::Relaxed);
            let answer = self.route(request).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        // What goes wrong with a connection concerns only its peer.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = sleep(LINGER) => {
                    // A head that never ends must not delay the end of the process.
                    if !busy.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Answer {
        let refusal = if request.uri().path() != self.path {
            Refusal::NotFound
        } else if request.method() != Method::POST {
            Refusal::MethodNotAllowed
        } else {
            return self.door.answer(request).await;
        };
        let (head, body) = request.into_parts();
        refuse_unread(refusal, &head.headers, body)
    }
}
