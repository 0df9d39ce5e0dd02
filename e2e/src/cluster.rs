//! The broker of a stack: one nats-server, or a cluster whose streams have a copy on each node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{ConnectOptions, jetstream};
use serde_json::Value;

use crate::check;
use crate::nats::{Nats, Settings};
use crate::port::Port;
use crate::process::Log;

/// How long one answer is waited for: a stream without a leader gives none.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// The nodes, which keep their ports and their stores over restarts.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Nats>,
    client: ConnectOptions,
    _routes: Vec<Port>,
}

impl Cluster {
    /// One server on this port, with its store in `dir/nats`.
    pub async fn single(dir: &Path, port: Port, settings: &Settings) -> Result<Self> {
        let nodes = vec![Nats::start_on(dir, port, settings).await?];
        Ok(Self { nodes, client: settings.client.clone(), _routes: Vec::new() })
    }

    /// Three nodes, with their stores in `dir/nats-1` and so on.
    pub async fn three(dir: &Path, settings: &Settings) -> Result<Self> {
        let routes = (0..3).map(|_| Port::lease()).collect::<Result<Vec<_>>>()?;
        let all: Vec<String> =
            routes.iter().map(|port| format!("\"nats-route://{}\"", port.address())).collect();
        let mut nodes = Vec::new();
        for (number, route) in (1..).zip(&routes) {
            let more = format!(
                "cluster {{\n  name: ackline\n  listen: \"{}\"\n  routes: [{}]\n}}\n{}",
                route.address(),
                all.join(", "),
                settings.more,
            );
            let settings = Settings { more, client: settings.client.clone() };
            nodes.push(Nats::launch(dir, &format!("-{number}"), Port::lease()?, &settings)?);
        }
        let cluster = Self { nodes, client: settings.client.clone(), _routes: routes };
        cluster.until_ready().await?;
        Ok(cluster)
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A node, counted from 0.
    pub fn node(&self, index: usize) -> &Nats {
        &self.nodes[index]
    }

    /// The same, to kill or to restart it.
    pub fn node_mut(&mut self, index: usize) -> &mut Nats {
        &mut self.nodes[index]
    }

    /// The addresses for clients, as in `NATS_URL`.
    pub fn url(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// What each node's processes have written, from the first start on.
    pub fn logs(&self) -> impl Iterator<Item = Arc<Log>> + '_ {
        self.nodes.iter().flat_map(|node| node.process.logs())
    }

    /// A new connection, to whichever node can be reached.
    pub async fn client(&self) -> Result<async_nats::Client> {
        let urls: Vec<String> = self.nodes.iter().map(Nats::url).collect();
        let connecting = self.client.clone().connect(urls.as_slice());
        connecting.await.context("can't connect to nats-server")
    }

    /// Kills every node with SIGKILL.
    pub fn kill9(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.process.kill9());
    }

    /// Ends every node with SIGTERM.
    pub async fn stop_server(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.stop_server().await?;
        }
        Ok(())
    }

    /// Starts every node again; kills first what runs.
    pub async fn restart(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.process.restart()?;
        }
        self.until_ready().await
    }

    /// Freezes every node: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.nodes.iter().for_each(|node| node.process.stop());
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.nodes.iter().for_each(|node| node.process.cont());
    }

    /// The index of the node that leads a stream; none while an election goes on.
    pub async fn leader(&self, stream: &str) -> Result<Option<usize>> {
        let stream = self.context().await?.get_stream(stream).await?;
        let cluster = stream.cached_info().cluster.as_ref();
        let leader = cluster.and_then(|cluster| cluster.leader.as_deref());
        Ok(leader.and_then(|name| {
            let number: usize = name.rsplit_once('-')?.1.parse().ok()?;
            number.checked_sub(1)
        }))
    }

    /// Tells the leader of a stream to hand over to another node.
    pub async fn step_down(&self, stream: &str) -> Result<()> {
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let answer = self.client().await?.request(subject, "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["success"] == true, "the leader of {stream} does not step down: {answer}");
        Ok(())
    }

    /// Whether each stream has a leader, and all its copies are up to date.
    pub async fn is_whole(&self) -> Result<bool> {
        check::is_whole(self.client().await?, self.size()).await
    }

    async fn context(&self) -> Result<jetstream::Context> {
        let client = self.client().await?;
        Ok(ContextBuilder::new().timeout(ANSWER_LIMIT).build(client))
    }

    async fn until_ready(&self) -> Result<()> {
        for node in &self.nodes {
            node.until_ready().await?;
        }
        Ok(())
    }
}
