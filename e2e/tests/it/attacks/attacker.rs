//! Attackers of our own: they hold a connection for as long as they are let.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::stack::CALLBACK_PATH;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How often an attacker sends a little more.
const PACE: Duration = Duration::from_millis(100);

/// How a connection is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attack {
    /// A head that never ends.
    Heads,
    /// A body that never ends.
    Bodies,
    /// Requests without end, none of whose answers is read.
    Readers,
}

/// Attackers that are at it; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Attackers {
    open: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Attackers {
    /// How many connections the server has not ended yet.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Attack {
    pub(super) const ALL: [Self; 3] = [Self::Heads, Self::Bodies, Self::Readers];
    /// The connections of all of them.
    pub(super) const CONNECTIONS: usize = 300;

    /// Opens connections and keeps each until the server ends it.
    pub(super) fn begin(self, to: SocketAddr) -> Attackers {
        let connections = match self {
            Self::Heads | Self::Bodies => 140,
            // Each costs ingress hundreds of answers before it has to wait for their reader.
            Self::Readers => 20,
        };
        let open = Arc::new(AtomicUsize::new(connections));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let open = Arc::clone(&open);
            tasks.spawn(async move {
                // That the server ends a connection can show in any of its calls.
                let _ = self.hold(to).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Attackers { open, _tasks: tasks }
    }

    async fn hold(self, to: SocketAddr) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        if matches!(self, Self::Readers) {
            socket.set_recv_buffer_size(4096)?;
            // As small as on a long way. The buffers that the kernel gives ingress for an answer grow
            // with it, and on the loopback interface they would take megabytes of answers.
            SockRef::from(&socket).set_tcp_mss(536)?;
        }
        let mut connection = socket.connect(to).await?;
        let (first, next) = match self {
            Self::Heads => {
                (format!("POST {CALLBACK_PATH} HTTP/1.1\r\nHost: a\r\n"), "X-A: a\r\n".into())
            }
            Self::Bodies => {
                let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
                (format!("POST {CALLBACK_PATH} {head}"), "a".into())
            }
            Self::Readers => {
                let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
                (requests.clone(), requests)
            }
        };
        send(&connection, first.as_bytes())?;
        loop {
            match self {
                Self::Readers => tokio::time::sleep(PACE).await,
                _ => {
                    let mut answer = [0; 1024];
                    let read = tokio::time::timeout(PACE, connection.read(&mut answer)).await;
                    if read.unwrap_or(Ok(1))? == 0 {
                        return Ok(());
                    }
                }
            }
            send(&connection, next.as_bytes())?;
        }
    }
}

/// Sends what fits in the buffers just now.
fn send(connection: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match connection.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
