//! A real nats-server with JetStream, whose confirmations mean that the disk has it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::{ConnectOptions, HeaderMap};
use bytes::Bytes;
use shared::bundle;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// One server. It keeps its port and its store over restarts.
#[derive(Debug)]
pub struct Nats {
    /// The server's process.
    pub process: Process,
    port: Port,
    client: ConnectOptions,
}

/// What a server is told beside its port and its store.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Lines of its configuration.
    pub more: String,
    /// How the harness connects to it, where everybody may not.
    pub client: ConnectOptions,
}

impl Nats {
    /// Starts a server on a port of its own with its store in `dir/nats`.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_on(dir, Port::lease()?, &Settings::default()).await
    }

    /// Starts a server on this port.
    pub async fn start_on(dir: &Path, port: Port, settings: &Settings) -> Result<Self> {
        let nats = Self::launch(dir, "", port, settings)?;
        nats.until_ready().await?;
        Ok(nats)
    }

    /// Starts a server that is not waited for; the suffix tells its name and its files in `dir`
    /// from those of others.
    pub(crate) fn launch(
        dir: &Path,
        suffix: &str,
        port: Port,
        settings: &Settings,
    ) -> Result<Self> {
        let store = dir.join(format!("nats{suffix}"));
        fs::create_dir_all(&store).with_context(|| format!("can't make {}", store.display()))?;
        let config = dir.join(format!("nats{suffix}.conf"));
        // The limits only have to be above what the tests' streams reserve; no space is taken.
        let text = format!(
            "server_name: ackline{suffix}\n\
             listen: \"{}\"\n\
             jetstream {{\n  store_dir: {store:?}\n  sync_interval: always\n  \
             max_memory_store: 64MB\n  max_file_store: 64GB\n}}\n{}\n",
            port.address(),
            settings.more,
        );
        fs::write(&config, text).with_context(|| format!("can't write {}", config.display()))?;
        let process = Program::new(format!("nats-server{suffix}"), tools::nats_server()?, dir)
            .args([Path::new("--config"), &config])
            .start()?;
        Ok(Self { process, port, client: settings.client.clone() })
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The same, as an address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A new connection.
    pub async fn client(&self) -> Result<async_nats::Client> {
        self.client.clone().connect(self.url()).await.context("can't connect to nats-server")
    }

    /// Ends the server with SIGTERM.
    pub async fn stop_server(&mut self) -> Result<ExitStatus> {
        self.process.terminate(STOP_LIMIT).await
    }

    /// Starts the server again, on the same port with the same store; kills it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.until_ready().await
    }

    async fn answers(&self) -> Result<()> {
        jetstream::new(self.client().await?).query_account().await?;
        Ok(())
    }

    /// Waits until JetStream answers through this server, which in a cluster takes a majority.
    pub(crate) async fn until_ready(&self) -> Result<()> {
        let connect = async {
            while self.process.is_running() {
                // Without a leader of the whole JetStream there is no answer at all.
                let answer = tokio::time::timeout(ANSWER_LIMIT, self.answers()).await;
                if matches!(answer, Ok(Ok(()))) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        };
        let is_ready = tokio::time::timeout(START_LIMIT, connect).await.unwrap_or(false);
        ensure!(is_ready, "nats-server does not become ready\n{}", self.process.log().tail(20));
        Ok(())
    }
}

/// Publishes a message that says it is a bundle, and waits until its stream has it.
pub async fn publish_bundle(
    jetstream: &jetstream::Context,
    subject: String,
    payload: Bytes,
) -> Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert(bundle::VERSION_HEADER.0, bundle::VERSION_HEADER.1);
    jetstream.publish_with_headers(subject, headers, payload).await?.await?;
    Ok(())
}
