//! The load balancer of the Compose file, by its shipped configuration, whose numbers of connections
//! are divided by 64.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::http::{Client, get};
use e2e::port::Port;
use e2e::process::{Process, Program};
use e2e::stack::{CALLBACK_PATH, Stack};
use e2e::tools;
use hyper::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::expect::*;

/// More than all frontends may have.
const ATTACKERS: usize = 100;
/// Well below the time that a slow head holds a connection.
const PROMPT: Duration = Duration::from_secs(2);

struct Balancer {
    _process: Process,
    callbacks: SocketAddr,
    console: SocketAddr,
}

async fn start(stack: &Stack) -> Balancer {
    let config = tools::workspace().join("deploy/haproxy/haproxy.cfg");
    let mut config = std::fs::read_to_string(config).unwrap();
    for (shipped, small) in [
        ("maxconn 4096", "maxconn 64"),
        ("maxconn 3072", "maxconn 48"),
        ("maxconn 512", "maxconn 8"),
    ] {
        config = config.replace(shipped, small);
    }
    let file = stack.dir().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let (callbacks, console) = (Port::lease().unwrap(), Port::lease().unwrap());
    let (callbacks, console) = (callbacks.address(), console.address());
    let program = Program::new("haproxy", tools::haproxy().unwrap(), stack.dir())
        .args(["-db", "-f", file.to_str().unwrap()])
        .env("LISTEN", callbacks.to_string())
        .env("CONSOLE", console.to_string())
        .env("INGRESS", stack.ingress.addr.to_string())
        .env("OPS_PORT", stack.ingress.ops.port().to_string())
        .env("WORKER", stack.worker.ops.to_string())
        .env("CALLBACKS_PER_SOURCE", "16")
        .env("CONSOLE_PER_SOURCE", "4");
    let process = stack.spawn(&program).unwrap();
    for (address, path) in [(callbacks, "/"), (console, "/livez")] {
        stack
            .wait_until("the load balancer has found them", SOON, async || {
                get(address, path).await.is_ok_and(|answer| answer.status != 503)
            })
            .await;
    }
    Balancer { _process: process, callbacks, console }
}

/// Opens connections from this source whose heads never end.
async fn attack(from: [u8; 4], to: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..ATTACKERS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let Ok(mut stream) = socket.connect(to).await else { continue };
        let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nX-").await;
        held.push(stream);
    }
    held
}

#[tokio::test]
#[ignore = "long: make test-door"]
async fn slow_heads_of_one_source_delay_nobody_else() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let balancer = start(&stack).await;
    let honest = async |what: &str| {
        let body = status("a", "queued");
        let signature = stack.sign(body.as_bytes());
        let asked = Instant::now();
        let mut client = Client::new(balancer.callbacks);
        let headers = [("x-signature", signature.as_str())];
        let answer = client.send(Method::POST, CALLBACK_PATH, &headers, body.into()).await.unwrap();
        assert_eq!(answer.status, 200, "{what}");
        assert!(asked.elapsed() < PROMPT, "a callback took {:?} beside {what}", asked.elapsed());
        let host = [("host", "localhost")];
        let mut client = Client::new(balancer.console);
        let page = client.send(Method::GET, "/", &host, "".into()).await.unwrap();
        assert_eq!(page.status, 200, "{what}: {}", page.text());
        assert!(asked.elapsed() < PROMPT * 2, "a page took {:?} beside {what}", asked.elapsed());
    };
    honest("nobody").await;
    let _callbacks = attack([127, 0, 0, 2], balancer.callbacks).await;
    honest("an attack on callbacks").await;
    let _console = attack([127, 0, 0, 2], balancer.console).await;
    honest("an attack on both").await;
    // So many sources that the callbacks' connections are all taken: the console has its own.
    let mut others = Vec::new();
    for source in 3..8 {
        others.push(attack([127, 0, 0, source], balancer.callbacks).await);
    }
    let asked = Instant::now();
    let host = [("host", "localhost")];
    let mut client = Client::new(balancer.console);
    let page = client.send(Method::GET, "/", &host, "".into()).await.unwrap();
    assert!(
        page.status == 200 && asked.elapsed() < PROMPT,
        "{} {:?}",
        page.text(),
        asked.elapsed()
    );
}
