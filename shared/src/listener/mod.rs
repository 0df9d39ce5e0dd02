//! The accept loop of every listener, and its limits: nobody holds a connection for nothing.

mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response};
use metrics::{describe_counter, describe_gauge};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::task::TaskTracker;

use self::connection::Site;
use crate::places::{Place, Places};
use crate::shutdown::Leaving;

/// The smallest limit on a head: what hyper reads at once.
pub const MIN_HEADER_BYTES: usize = 8192;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a full listener looks whether somebody waits, for whom another may lose its place.
const FULL_PAUSE: Duration = Duration::from_millis(20);

const OPEN: &str = "ackline_connections";
const ENDED: &str = "ackline_connections_ended_total";

/// What a listener allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. More wait to be accepted, or take the place of one that is not in
    /// the middle of a request, and has not been for [`GRACE`](crate::places::GRACE).
    pub max_connections: usize,
    /// From being accepted to the first byte of a request, a TLS handshake included.
    pub silence_timeout: Duration,
    /// The size of a head; also how much of a body a connection buffers.
    pub max_header_bytes: usize,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For the client to take anything of an answer.
    pub write_timeout: Duration,
}

/// The certificate of a listener that speaks TLS; each handshake uses the latest.
pub type Tls = watch::Receiver<Arc<ServerConfig>>;

/// Says what the metrics of all listeners mean; call once, after the recorder is installed.
pub fn describe_metrics() {
    describe_gauge!(OPEN, "Open connections, by listener");
    describe_counter!(
        ENDED,
        "Connections that a limit has ended, by listener and limit: silence, header, idle, write, \
         or place, when another needed it"
    );
}

/// Serves the listener until the second step of `leaving`; from the first one on, answers ask for
/// the connection to be closed. Returns the connections that are still open at the end, which end
/// with the requests in flight on them. `name` is the listener's in metrics.
pub async fn serve<H, F, B>(
    name: &'static str,
    listener: TcpListener,
    tls: Option<Tls>,
    limits: Limits,
    handler: H,
    leaving: Leaving,
) -> TaskTracker
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let mut http = http1::Builder::new();
    // The limits on time are the connection's own, which tell silence, heads and idling apart.
    http.header_read_timeout(None).max_buf_size(limits.max_header_bytes);
    let crowded = AtomicBool::new(false);
    let site = Arc::new(Site { name, http, handler, limits, leaving, crowded });
    let connections = TaskTracker::new();
    let open = |stream: TcpStream, place: Place| {
        connections.spawn(connection::run(Arc::clone(&site), stream, tls.clone(), place));
    };

    let places = Places::new(limits.max_connections);
    tokio::select! {
        () = site.leaving.stopped.cancelled() => {}
        () = accept(&listener, &places, &site.crowded, &open) => {}
    }
    // Those who have connected by then are answered, instead of being reset.
    while is_awaited(&listener)
        && let Some(place) = places.try_free()
        && let Ok((stream, _)) = listener.accept().await
    {
        open(stream, place);
    }
    connections.close();
    connections
}

async fn accept(
    listener: &TcpListener,
    places: &Places,
    crowded: &AtomicBool,
    open: impl Fn(TcpStream, Place),
) {
    let mut failing = false;
    loop {
        // With the place first, connections beyond the limit wait in the kernel's queue.
        let place = place(listener, places, crowded).await;
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                open(stream, place);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "can't accept connections: {error}");
                }
                // Out of file descriptors, usually: another connection's would do.
                places.ask_to_leave();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A place that is free. When there is none and somebody waits for one, another may have to leave;
/// and nobody keeps a place for more than one request, so that those who wait have their turn.
async fn place(listener: &TcpListener, places: &Places, crowded: &AtomicBool) -> Place {
    loop {
        if let Some(place) = places.try_free() {
            if crowded.load(Ordering::Relaxed) && !is_awaited(listener) {
                crowded.store(false, Ordering::Relaxed);
            }
            return place;
        }
        if is_awaited(listener) {
            crowded.store(true, Ordering::Relaxed);
            places.ask_to_leave();
        }
        if let Ok(place) = timeout(FULL_PAUSE, places.free()).await {
            return place;
        }
    }
}

/// Whether a connection waits to be accepted.
fn is_awaited(listener: &TcpListener) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut listeners, Some(&now)).is_ok_and(|ready| ready > 0)
}
