//! A TCP proxy that holds up or swallows what passes through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Pass,
    /// They wait, and pass later, even when the end that sent them is gone.
    Hold,
    /// They vanish.
    Swallow,
    /// They vanish, and so does the end of the connection.
    Silence,
}

/// A proxy in front of one server. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    flows: Arc<Mutex<Flows>>,
    silenced: Mutex<Vec<Flows>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: JoinHandle<()>,
}

/// Both directions of the connections that were made since the last silence.
#[derive(Debug)]
struct Flows {
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
}

impl Flows {
    fn new() -> Self {
        Self {
            to_server: watch::Sender::new(Flow::Pass),
            to_client: watch::Sender::new(Flow::Pass),
        }
    }
}

impl Proxy {
    /// Listens on any free port for connections to this server.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let flows = Arc::new(Mutex::new(Flows::new()));
        let connections = Arc::<Mutex<JoinSet<()>>>::default();
        let accepting = tokio::spawn({
            let flows = Arc::clone(&flows);
            let connections = Arc::clone(&connections);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let flows = {
                        let flows = lock(&flows);
                        (flows.to_server.subscribe(), flows.to_client.subscribe())
                    };
                    lock(&connections).spawn(connect(client, server, flows));
                }
            }
        });
        Ok(Self { address, flows, silenced: Mutex::default(), connections, accepting })
    }

    /// Where to connect to instead of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Decides what becomes of what clients send.
    pub fn to_server(&self, flow: Flow) {
        lock(&self.flows).to_server.send_replace(flow);
    }

    /// Decides what becomes of what the server sends.
    pub fn to_client(&self, flow: Flow) {
        lock(&self.flows).to_client.send_replace(flow);
    }

    /// Lets the connections that there are fall silent for ever: neither end hears of the other
    /// again, nor that it is gone. New ones are not concerned.
    pub fn silence(&self) {
        let old = std::mem::replace(&mut *lock(&self.flows), Flows::new());
        old.to_server.send_replace(Flow::Silence);
        old.to_client.send_replace(Flow::Silence);
        // The connections outlive their senders.
        lock(&self.silenced).push(old);
    }

    /// Closes all connections, with what they hold; new ones may come.
    pub fn cut(&self) {
        lock(&self.connections).abort_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    (to_server, to_client): (watch::Receiver<Flow>, watch::Receiver<Flow>),
) {
    // A server that is down closes the client's connection.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, into_client) = client.into_split();
    let (from_server, into_server) = server.into_split();
    tokio::join!(
        pump(from_client, into_server, to_server),
        pump(from_server, into_client, to_client),
    );
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) {
    let mut buffer = vec![0; 64 * 1024];
    // An end that closes is an end like any other; dropping `to` tells the other side.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // The proxy is gone when this fails.
        let Ok(flow) = flow.wait_for(|flow| *flow != Flow::Hold).await.map(|flow| *flow) else {
            return;
        };
        if flow == Flow::Pass && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if *flow.borrow() == Flow::Silence {
        let _ = flow.wait_for(|flow| *flow != Flow::Silence).await;
    }
}
