//! The accept loop of every listener, and its limits: nobody holds a connection for nothing.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest head; also how much of a body a connection buffers.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is not in the middle of a request is left at the end.
const LINGER: Duration = Duration::from_secs(1);

/// What a listener allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// For a head to arrive, and for a connection between requests.
    pub header_timeout: Duration,
    /// For the client to take anything of an answer.
    pub write_timeout: Duration,
}

/// Serves the listener until `shutdown`; returns the connections that are still open then, which
/// end with the requests in flight on them.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    limits: Limits,
    handler: H,
    shutdown: &CancellationToken,
) -> TaskTracker
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    let site = Arc::new((http, handler));
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
                let (site, shutdown) = (Arc::clone(&site), shutdown.clone());
                connections.spawn(async move {
                    let (http, handler) = &*site;
                    connection(http, stream, limits.write_timeout, handler, &shutdown).await;
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

async fn connection<H, F, B>(
    http: &http1::Builder,
    stream: TcpStream,
    write_timeout: Duration,
    handler: &H,
    shutdown: &CancellationToken,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    // Only costs some latency where it fails.
    let _ = stream.set_nodelay(true);
    // hyper waits for ever for a client that does not read.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    let busy = AtomicBool::new(false);
    let service = service_fn(async |request| {
        busy.store(true, Ordering::Relaxed);
        let answer = handler(request).await;
        busy.store(false, Ordering::Relaxed);
        Ok::<_, Infallible>(answer)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
    // What goes wrong with a connection concerns only its peer.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
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
