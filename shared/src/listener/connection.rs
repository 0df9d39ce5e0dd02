//! One connection: HTTP/1.1 with a limit on every wait for the client.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_util::io::InspectReader;

use super::limits::Limits;
use super::metrics::{self, Counted};
use super::peer::Peer;
use super::phase::{LINGER, Phase, Working};
use crate::eviction::{Evicted, Slot};
use crate::shutdown::Leaving;

/// The certificate of a listener that speaks TLS; each handshake uses the latest.
pub type Tls = watch::Receiver<Arc<ServerConfig>>;

/// What all connections of a listener share.
pub(super) struct Site<H> {
    pub(super) name: &'static str,
    pub(super) http: http1::Builder,
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) leaving: Leaving,
    /// Whether others wait for a slot.
    pub(super) crowded: AtomicBool,
}

/// Serves a connection to its end. Its errors concern only its client.
pub(super) async fn run<H, F, B>(
    site: Arc<Site<H>>,
    stream: TcpStream,
    peer: Peer,
    tls: Option<Tls>,
    mut slot: Slot,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let _counted = Counted::new(site.name);
    let silent_until = Instant::now() + site.limits.silence_timeout;
    slot.set_idle();
    // A failure only costs some latency.
    let _ = stream.set_nodelay(true);
    // hyper waits for ever for a client that does not read.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(site.limits.write_timeout));
    let stream = Box::pin(stream);
    let ended = match tls {
        None => serve(&site, stream, peer, slot, silent_until).await,
        Some(tls) => {
            let acceptor = TlsAcceptor::from(Arc::clone(&*tls.borrow()));
            drop(tls);
            match handshake(&site, acceptor, stream, &slot, silent_until).await {
                Ok(stream) => serve(&site, stream, peer, slot, silent_until).await,
                Err(limit) => limit,
            }
        }
    };
    if let Some(limit) = ended {
        metrics::ended(site.name, limit);
    }
}

async fn handshake<H, S: AsyncRead + AsyncWrite + Unpin>(
    site: &Site<H>,
    acceptor: TlsAcceptor,
    stream: S,
    slot: &Slot,
    until: Instant,
) -> Result<TlsStream<S>, Option<&'static str>> {
    let eviction = slot.eviction();
    tokio::select! {
        secured = timeout_at(until, acceptor.accept(stream)) => match secured {
            Ok(secured) => secured.map_err(|_| None),
            Err(_) => Err(Some("silence")),
        },
        () = eviction.happened() => Err(Some("place")),
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
    peer: Peer,
    slot: Slot,
    silent_until: Instant,
) -> Option<&'static str>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Site { http, handler, limits, leaving, crowded, .. } = site;
    let eviction = slot.eviction();
    let phase = Arc::new(Phase::new(*limits, slot, silent_until));
    let service = service_fn(async |mut request: Request<Incoming>| {
        phase.begin()?;
        request.extensions_mut().insert(peer);
        let working = Working(Arc::clone(&phase));
        let mut answer = handler(request).await;
        if leaving.begun.is_cancelled() || crowded.load(Ordering::Relaxed) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // hyper drops the body when all of it is written; until then it keeps the request in flight.
        // A stream of events may take as long as its reader stays.
        Ok::<_, Evicted>(answer.map(|body| {
            body.map_err(move |error| {
                let _ = &working;
                error
            })
        }))
    });
    let stream = InspectReader::new(stream, |arrived| {
        if !arrived.is_empty() {
            phase.hear();
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut limit = pin!(sleep_until(silent_until));
    let mut evicted = pin!(eviction.happened());
    let mut stopped = pin!(leaving.stopped.cancelled());
    let mut is_stopping = false;
    poll_fn(|context| {
        // By now every answer asks for the connection to be closed. hyper's own shutdown would
        // close connections on which a request has arrived that it has not read.
        if !is_stopping && stopped.as_mut().poll(context).is_ready() {
            is_stopping = true;
            phase.stop();
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            return Poll::Ready(ended.err().and_then(|error| limit_behind(&error)));
        }
        if evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some("place"));
        }
        // The phase can only change while the connection is polled, which is whenever this is.
        let Some((until, name)) = phase.limit() else { return Poll::Pending };
        if until != limit.deadline() {
            limit.as_mut().reset(until);
        }
        limit.as_mut().poll(context).map(|()| Some(name).filter(|_| !is_stopping))
    })
    .await
}

/// The limit that caused an error of the connection.
fn limit_behind(error: &hyper::Error) -> Option<&'static str> {
    let source = error.source()?;
    if source.is::<Evicted>() {
        return Some("place");
    }
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    source.downcast_ref().is_some_and(timed_out).then_some("write")
}
