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
}

/// A proxy in front of one server. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on any free port for connections to this server.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (to_server, to_client) =
            (watch::Sender::new(Flow::Pass), watch::Sender::new(Flow::Pass));
        let connections = Arc::<Mutex<JoinSet<()>>>::default();
        let accepting = tokio::spawn({
            let (to_server, to_client) = (to_server.clone(), to_client.clone());
            let connections = Arc::clone(&connections);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let flows = (to_server.subscribe(), to_client.subscribe());
                    lock(&connections).spawn(connect(client, server, flows));
                }
            }
        });
        Ok(Self { address, to_server, to_client, connections, accepting })
    }

    /// Where to connect to instead of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Decides what becomes of what clients send.
    pub fn to_server(&self, flow: Flow) {
        self.to_server.send_replace(flow);
    }

    /// Decides what becomes of what the server sends.
    pub fn to_client(&self, flow: Flow) {
        self.to_client.send_replace(flow);
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

fn lock(connections: &Mutex<JoinSet<()>>) -> std::sync::MutexGuard<'_, JoinSet<()>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
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
}
