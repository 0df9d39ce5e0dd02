//! The production shape, started from its own configuration: what docker-compose.yml, the Dockerfile
//! and deploy/ say, with a loopback address in place of each container.

mod hosts;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;

use hosts::Hosts;

use crate::cluster::Cluster;
use crate::compose::Compose;
use crate::names::Names;
use crate::nats::Nats;
use crate::postgres::{self, Postgres};
use crate::process::Process;
use crate::stack::{Ingress, Parts, Roles, Stack, Worker, poll};

/// What is set where the file lets operators choose: the disk that streams reserve.
const VARIABLES: [(&str, &str); 1] = [("STREAM_MAX_BYTES", "16777216")];
const NODES: [&str; 3] = ["nats-1", "nats-2", "nats-3"];
const START_LIMIT: Duration = Duration::from_secs(60);
/// `stop_grace_period`, in which a process must end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Everything that `docker compose --env-file deploy/cluster.env up` starts. The stack's own ingress
/// and worker are the first replicas.
#[derive(Debug)]
pub struct Deployment {
    /// The broker, the database, and the first replica of each program.
    pub stack: Stack,
    /// The other replicas.
    pub ingresses: Vec<Ingress>,
    /// The other replicas.
    pub workers: Vec<Worker>,
    /// Where senders send callbacks to.
    pub load_balancer: LoadBalancer,
    compose: Compose,
    hosts: Hosts,
    names: Names,
}

/// A running haproxy.
#[derive(Debug)]
pub struct LoadBalancer {
    /// Its process, the master of those that serve.
    pub process: Process,
    /// Where it takes callbacks.
    pub addr: SocketAddr,
    /// Where it shows the console.
    pub console: SocketAddr,
}

impl Deployment {
    /// Starts everything, each part when those that it depends on are healthy.
    ///
    /// # Errors
    /// When a part is missing or does not become ready; with its last lines.
    pub async fn start() -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("ackline-deployed-").tempdir()?;
        let compose = Compose::read("deploy/cluster.env", &VARIABLES)?;
        let mut hosts = Hosts::new(temporary.path())?;
        let nodes = NODES.map(|name| hosts.node(name));
        let servers = nodes.map(|ip| ip.to_string());
        hosts.run_secrets(None, &servers).await?;

        let client = hosts.client("operator", "_INBOX_OPERATOR")?;
        let mut launched = Vec::new();
        for (name, ip) in NODES.into_iter().zip(nodes) {
            launched.push(hosts.launch_nats(&compose, (name, "cluster"), ip, &client)?);
        }
        let nats = Cluster::of(launched, client).await?;
        let settings = postgres::Settings {
            password: Some(hosts.secret("postgres-password")?),
            database: variable(&compose, "postgres", "POSTGRES_DB")?,
        };
        let postgres = Postgres::start_with(temporary.path(), settings).await?;
        hosts.known.push(("postgres:5432".to_owned(), postgres.address()));

        let any = Hosts::address(Ipv4Addr::LOCALHOST, 0);
        let secret = hosts.secret("callback-secrets")?;
        let (_, secret) = secret.split_once(':').context("no secret in callback-secrets")?;
        let parts = Parts {
            dir: temporary.path().to_owned(),
            roles: Roles {
                ingress: hosts.environment(&compose, "ingress")?,
                worker: hosts.environment(&compose, "worker")?,
                person: hosts.environment(&compose, "worker")?,
                operator: hosts.environment(&compose, "migrate")?,
            },
            database_url: postgres.url(),
            secret: secret.to_owned(),
            ingress_listen: (any, any),
            worker_ops: any,
            kept_lines: usize::MAX,
            started: Mutex::default(),
            logs: Mutex::default(),
        };
        parts.migrate().await?;
        let name_server = Hosts::address(hosts.host(), 53);
        let names = Names::serve(name_server).await?;
        let ingress = hosts.start_ingress(&parts, &names).await?;
        let worker = hosts.start_worker(&parts, &names).await?;
        let mut ingresses = Vec::new();
        for _ in 1..compose.service("ingress")?.replicas() {
            ingresses.push(hosts.start_ingress(&parts, &names).await?);
        }
        let mut workers = Vec::new();
        for _ in 1..compose.service("worker")?.replicas() {
            workers.push(hosts.start_worker(&parts, &names).await?);
        }
        let load_balancer = hosts.start_load_balancer(name_server).await?;
        let temporary = Some(temporary);
        let stack = Stack { ingress, worker, nats, postgres: Some(postgres), parts, temporary };
        Ok(Self { stack, ingresses, workers, load_balancer, compose, hosts, names })
    }

    /// Makes the certificates anew, by the same authorities and for the names that they had.
    ///
    /// # Errors
    /// When that fails.
    pub async fn renew_certificates(&self) -> Result<()> {
        self.hosts.run_secrets(Some("--renew"), &[]).await
    }

    /// A way to connect as a role, with the certificate that it has, and an inbox of this name.
    ///
    /// # Errors
    /// When it has none.
    pub fn client(&self, role: &str, inbox: &str) -> Result<ConnectOptions> {
        self.hosts.client(role, inbox)
    }

    /// Issues a certificate for clients of this name, by the authority of the clients, which
    /// [`Deployment::secret_file`] finds.
    ///
    /// # Errors
    /// When that fails.
    pub async fn issue(&self, name: &str) -> Result<()> {
        self.hosts.issue(name).await
    }

    /// Where a file of `deploy/secrets` is.
    #[must_use]
    pub fn secret_file(&self, name: &str) -> PathBuf {
        self.hosts.secrets().join(name)
    }

    /// Starts one more ingress, as `docker compose up --scale` does.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_ingress(&mut self) -> Result<()> {
        let ingress = self.hosts.start_ingress(&self.stack.parts, &self.names).await?;
        self.ingresses.push(ingress);
        Ok(())
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_worker(&mut self) -> Result<()> {
        self.workers.push(self.hosts.start_worker(&self.stack.parts, &self.names).await?);
        Ok(())
    }

    /// Stops every worker, and leaves them stopped.
    ///
    /// # Errors
    /// When one does not end by itself.
    pub async fn stop_workers(&mut self) -> Result<()> {
        for worker in [&mut self.stack.worker].into_iter().chain(&mut self.workers) {
            end(&mut worker.process).await?;
            self.names.remove("worker", worker.ops.ip());
        }
        Ok(())
    }

    /// Starts as many workers as were stopped.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_workers(&mut self) -> Result<()> {
        self.stack.worker = self.hosts.start_worker(&self.stack.parts, &self.names).await?;
        for worker in &mut self.workers {
            *worker = self.hosts.start_worker(&self.stack.parts, &self.names).await?;
        }
        Ok(())
    }

    /// Makes the schema and the streams once more, as every `docker compose up` does.
    ///
    /// # Errors
    /// When that fails.
    pub async fn migrate(&self) -> Result<()> {
        self.stack.parts.migrate().await
    }

    /// Starts one more node of the broker's cluster, `nats-4`, which shows the others the
    /// certificate of this role. It is not waited for.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn launch_node(&mut self, role: &str) -> Result<Nats> {
        let ip = self.hosts.host();
        let client = self.hosts.client("operator", "_INBOX_OPERATOR")?;
        self.hosts.launch_nats(&self.compose, ("nats-4", role), ip, &client)
    }

    /// Stops the ingress that is there longest, and starts another one in its place.
    ///
    /// # Errors
    /// When it does not end by itself, or the other one does not become ready.
    pub async fn replace_ingress(&mut self) -> Result<()> {
        end(&mut self.stack.ingress.process).await?;
        self.names.remove("ingress", self.stack.ingress.addr.ip());
        let new = self.hosts.start_ingress(&self.stack.parts, &self.names).await?;
        self.ingresses.push(new);
        self.stack.ingress = self.ingresses.remove(0);
        Ok(())
    }

    /// Stops the worker that is there longest, and starts another one in its place.
    ///
    /// # Errors
    /// When it does not end by itself, or the other one does not become ready.
    pub async fn replace_worker(&mut self) -> Result<()> {
        end(&mut self.stack.worker.process).await?;
        self.names.remove("worker", self.stack.worker.ops.ip());
        let new = self.hosts.start_worker(&self.stack.parts, &self.names).await?;
        self.workers.push(new);
        self.stack.worker = self.workers.remove(0);
        Ok(())
    }

    /// Makes the load balancer read its configuration again: processes that serve by it take the
    /// place of the others, which end when their requests have.
    ///
    /// # Errors
    /// When it does not.
    pub async fn reload_load_balancer(&self) -> Result<()> {
        let process = &self.load_balancer.process;
        let loads = || process.log().text().matches("Loading success").count();
        let before = loads();
        process.user_signal_2();
        let reloaded = poll(START_LIMIT, async || (loads() > before).then_some(())).await;
        reloaded.with_context(|| format!("haproxy does not reload\n{}", process.log().tail(20)))
    }
}

async fn end(process: &mut Process) -> Result<()> {
    let status = process.terminate(STOP_LIMIT).await?;
    ensure!(status.success(), "{} ended with {status}", process.name());
    Ok(())
}

fn variable(compose: &Compose, service: &str, name: &str) -> Result<String> {
    let mut environment = compose.service(service)?.environment();
    let found = environment.find(|(found, _)| *found == name);
    Ok(found.with_context(|| format!("{service} has no {name}"))?.1)
}
