//! The accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::connection::{self, Site, Tls};
use super::limits::Limits;
use super::peer::Peer;
use crate::eviction::{Slot, Slots};
use crate::shutdown::Leaving;

/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a full listener checks whether a client waits, so that another may lose its slot.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Serves the listener until the second step of `leaving`; from the first step on, answers ask for
/// the connection to be closed. Returns the connections that are still open at the end; each ends
/// with its request in flight. `name` is the listener's name in metrics.
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
    // The connection has time limits of its own, which distinguish silence, heads and idling.
    http.header_read_timeout(None).max_buf_size(limits.max_header_bytes);
    let crowded = AtomicBool::new(false);
    let site = Arc::new(Site { name, http, handler, limits, leaving, crowded });
    let connections = TaskTracker::new();
    let open = |stream: TcpStream, peer: SocketAddr, slot: Slot| {
        let site = Arc::clone(&site);
        connections.spawn(connection::run(site, stream, Peer(peer.ip()), tls.clone(), slot));
    };

    let slots = Slots::new(limits.max_connections);
    tokio::select! {
        () = site.leaving.stopped.cancelled() => {}
        () = accept(&listener, &slots, &site.crowded, &open) => {}
    }
    // Clients that have connected by then are answered instead of being reset.
    while is_awaited(&listener)
        && let Some(slot) = slots.try_acquire()
        && let Ok((stream, peer)) = listener.accept().await
    {
        open(stream, peer, slot);
    }
    connections.close();
    connections
}

async fn accept(
    listener: &TcpListener,
    slots: &Slots,
    crowded: &AtomicBool,
    open: impl Fn(TcpStream, SocketAddr, Slot),
) {
    let mut failing = false;
    loop {
        // With the slot first, connections beyond the limit wait in the kernel's queue.
        let slot = slot(listener, slots, crowded).await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                open(stream, peer, slot);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "can't accept connections, and tries again: {error}");
                }
                // Out of file descriptors, usually: another connection's would do.
                slots.ask_to_leave();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A free slot. If there is none and a client waits, an idle connection may have to leave.
/// Meanwhile no connection keeps its slot for more than one request, so that waiting clients get a
/// turn.
async fn slot(listener: &TcpListener, slots: &Slots, crowded: &AtomicBool) -> Slot {
    loop {
        if let Some(slot) = slots.try_acquire() {
            if crowded.load(Ordering::Relaxed) && !is_awaited(listener) {
                crowded.store(false, Ordering::Relaxed);
            }
            return slot;
        }
        if is_awaited(listener) {
            crowded.store(true, Ordering::Relaxed);
            slots.ask_to_leave();
        }
        if let Ok(slot) = timeout(FULL_PAUSE, slots.acquire()).await {
            return slot;
        }
    }
}

/// Whether a connection waits to be accepted.
fn is_awaited(listener: &TcpListener) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut listeners, Some(&now)).is_ok_and(|ready| ready > 0)
}
