//! One connection: HTTP/1.1 with a limit on every wait for the client.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ENDED, Limits, OPEN, Tls};
use crate::places::{Lost, Place};
use crate::shutdown::Leaving;

/// How long a connection that is not in the middle of a request is left at the end.
const LINGER: Duration = Duration::from_secs(1);

/// What all connections of a listener share.
pub(super) struct Site<H> {
    pub(super) name: &'static str,
    pub(super) http: http1::Builder,
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) leaving: Leaving,
    /// Whether others wait for a place.
    pub(super) crowded: AtomicBool,
}

/// Serves a connection to its end. What goes wrong with it concerns only its client.
pub(super) async fn run<H, F, B>(
    site: Arc<Site<H>>,
    stream: TcpStream,
    tls: Option<Tls>,
    mut place: Place,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let _counted = Counted::new(site.name);
    let silent_until = Instant::now() + site.limits.silence_timeout;
    place.wait();
    // Only costs some latency where it fails.
    let _ = stream.set_nodelay(true);
    // hyper waits for ever for a client that does not read.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(site.limits.write_timeout));
    let stream = Box::pin(stream);
    let ended = match tls {
        None => serve(&site, stream, place, silent_until).await,
        Some(tls) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&*tls.borrow()));
            drop(tls);
            match handshake(&site, acceptor, stream, &place, silent_until).await {
                Ok(stream) => serve(&site, stream, place, silent_until).await,
                Err(limit) => limit,
            }
        }
    };
    if let Some(limit) = ended {
        counter!(ENDED, "listener" => site.name, "limit" => limit).increment(1);
    }
}

async fn handshake<H, S: AsyncRead + AsyncWrite + Unpin>(
    site: &Site<H>,
    acceptor: TlsAcceptor,
    stream: S,
    place: &Place,
    until: Instant,
) -> Result<TlsStream<S>, Option<&'static str>> {
    let lost = place.lost();
    tokio::select! {
        secured = timeout_at(until, acceptor.accept(stream)) => match secured {
            Ok(secured) => secured.map_err(|_| None),
            Err(_) => Err(Some("silence")),
        },
        () = lost.told() => Err(Some("place")),
        () = async {
            site.leaving.stopped.cancelled().await;
            sleep(LINGER).await;
        } => Err(None),
    }
}

/// Returns the limit that ended the connection, if one did.
async fn serve<H, F, B, S>(
    site: &Site<H>,
    stream: S,
    place: Place,
    silent_until: Instant,
) -> Option<&'static str>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Site { http, handler, limits, leaving, crowded, .. } = site;
    let lost = place.lost();
    let phase = Arc::new(Phase::new(*limits, place, silent_until));
    let service = service_fn(async |request| {
        phase.begin()?;
        let working = Working(Arc::clone(&phase));
        let mut answer = handler(request).await;
        if leaving.begun.is_cancelled() || crowded.load(Ordering::Relaxed) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Lost>(answer.map(|body| Sent { body, _working: working }))
    });
    let stream = Observed { stream, phase: &phase };
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut limit = pin!(sleep_until(silent_until));
    let mut lost = pin!(lost.told());
    let mut stopped = pin!(leaving.stopped.cancelled());
    let mut is_stopping = false;
    poll_fn(|context| {
        // Every answer asks for the connection to be closed by now. hyper's own shutdown would close
        // those on which a request has arrived that it has not read.
        if !is_stopping && stopped.as_mut().poll(context).is_ready() {
            is_stopping = true;
            phase.stop();
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            return Poll::Ready(ended.err().and_then(|error| limit_behind(&error)));
        }
        if lost.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some("place"));
        }
        // The phase has changed only if the connection was polled, which is whenever this is.
        let Some((until, name)) = phase.limit() else { return Poll::Pending };
        if until != limit.deadline() {
            limit.as_mut().reset(until);
        }
        limit.as_mut().poll(context).map(|()| Some(name).filter(|_| !is_stopping))
    })
    .await
}

/// The limit that an error of the connection comes from.
fn limit_behind(error: &hyper::Error) -> Option<&'static str> {
    let source = error.source()?;
    if source.is::<Lost>() {
        return Some("place");
    }
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    source.downcast_ref().is_some_and(timed_out).then_some("write")
}

/// Counts an open connection.
struct Counted(&'static str);

impl Counted {
    fn new(listener: &'static str) -> Self {
        gauge!(OPEN, "listener" => listener).increment(1.0);
        Self(listener)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(OPEN, "listener" => self.0).decrement(1.0);
    }
}

/// What the connection waits for, and until when.
struct Phase {
    limits: Limits,
    now: Mutex<Now>,
}

struct Now {
    place: Place,
    waits: Waits,
    is_stopping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the first byte of the first request.
    Silent(Instant),
    /// For the rest of a head.
    Head(Instant),
    /// For the first byte of the next request.
    Idle(Instant),
    /// For nothing: a request is being worked on, whose waits are the handler's.
    No,
}

impl Phase {
    fn new(limits: Limits, place: Place, silent_until: Instant) -> Self {
        let now = Now { place, waits: Waits::Silent(silent_until), is_stopping: false };
        Self { limits, now: Mutex::new(now) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Only the connection's own task locks it.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have arrived.
    fn hear(&self) {
        let mut now = self.now();
        if matches!(now.waits, Waits::Silent(_) | Waits::Idle(_)) && !now.is_stopping {
            now.waits = Waits::Head(Instant::now() + self.limits.header_timeout);
        }
    }

    /// A head is whole.
    fn begin(&self) -> Result<(), Lost> {
        let mut now = self.now();
        now.waits = Waits::No;
        now.place.work()
    }

    /// The answer has left.
    fn end(&self) {
        let mut now = self.now();
        let limit = if now.is_stopping { LINGER } else { self.limits.idle_timeout };
        now.waits = Waits::Idle(Instant::now() + limit);
        now.place.wait();
    }

    /// A head that never ends must not delay the end of the process.
    fn stop(&self) {
        let mut now = self.now();
        now.is_stopping = true;
        if now.waits != Waits::No {
            now.waits = Waits::Head(Instant::now() + LINGER);
        }
    }

    /// The limit that holds now, and its name.
    fn limit(&self) -> Option<(Instant, &'static str)> {
        match self.now().waits {
            Waits::Silent(until) => Some((until, "silence")),
            Waits::Head(until) => Some((until, "header")),
            Waits::Idle(until) => Some((until, "idle")),
            Waits::No => None,
        }
    }
}

/// A request that is being worked on, until it is dropped.
struct Working(Arc<Phase>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of an answer: its request is worked on until hyper drops it, which is when all of it is
/// written. A stream of events may take as long as its reader stays.
struct Sent<B> {
    body: B,
    _working: Working,
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells when bytes arrive on it.
struct Observed<'a, S> {
    stream: S,
    phase: &'a Phase,
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.phase.hear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
