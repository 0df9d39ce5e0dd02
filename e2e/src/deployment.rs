//! The production shape, started from its own configuration: what docker-compose.yml, the Dockerfile
//! and deploy/ say, with a loopback address in place of each container.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;

use crate::cluster::Cluster;
use crate::compose::Compose;
use crate::names::Names;
use crate::nats::{Configured, Nats};
use crate::port::Port;
use crate::postgres::{self, Postgres};
use crate::process::{Process, Program};
use crate::stack::{Env, Ingress, Parts, Roles, Stack, Worker, poll};
use crate::tools;

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
        let worker = hosts.start_worker(&parts).await?;
        let mut ingresses = Vec::new();
        for _ in 1..compose.service("ingress")?.replicas() {
            ingresses.push(hosts.start_ingress(&parts, &names).await?);
        }
        let mut workers = Vec::new();
        for _ in 1..compose.service("worker")?.replicas() {
            workers.push(hosts.start_worker(&parts).await?);
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
        self.workers.push(self.hosts.start_worker(&self.stack.parts).await?);
        Ok(())
    }

    /// Stops every worker, and leaves them stopped.
    ///
    /// # Errors
    /// When one does not end by itself.
    pub async fn stop_workers(&mut self) -> Result<()> {
        end(&mut self.stack.worker.process).await?;
        for worker in &mut self.workers {
            end(&mut worker.process).await?;
        }
        Ok(())
    }

    /// Starts as many workers as were stopped.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_workers(&mut self) -> Result<()> {
        self.stack.worker = self.hosts.start_worker(&self.stack.parts).await?;
        for worker in &mut self.workers {
            *worker = self.hosts.start_worker(&self.stack.parts).await?;
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
        self.hosts.forget_ingress(self.stack.ingress.addr, &self.names);
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
        let new = self.hosts.start_worker(&self.stack.parts).await?;
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

/// The loopback addresses that stand for containers. Each deployment has a network of its own, as
/// certainly as it has its leased port.
#[derive(Debug)]
struct Hosts {
    dir: PathBuf,
    network: Port,
    hosts: u8,
    /// What texts name, as `HOST:PORT`, and where it is.
    known: Vec<(String, SocketAddr)>,
    ingresses: Vec<Ipv4Addr>,
}

impl Hosts {
    fn new(dir: &Path) -> Result<Self> {
        let (dir, network) = (dir.to_owned(), Port::lease()?);
        Ok(Self { dir, network, hosts: 0, known: Vec::new(), ingresses: Vec::new() })
    }

    /// A new host.
    fn host(&mut self) -> Ipv4Addr {
        let [high, low] = self.network.number().to_be_bytes();
        self.hosts += 1;
        Ipv4Addr::new(127, high, low, self.hosts)
    }

    /// A new host that is known by this name.
    fn node(&mut self, name: &str) -> Ipv4Addr {
        let ip = self.host();
        for port in [4222, 6222] {
            self.known.push((format!("{name}:{port}"), Self::address(ip, port)));
        }
        ip
    }

    /// Above the ports that others of this machine may have taken on all addresses.
    fn address(ip: Ipv4Addr, port: u16) -> SocketAddr {
        (ip, if port == 0 { 0 } else { port + 20_000 }).into()
    }

    fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// The only line of a secret.
    fn secret(&self, name: &str) -> Result<String> {
        let file = self.secrets().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Runs deploy/secrets.sh, for NATS servers that are also called these names.
    async fn run_secrets(&self, option: Option<&str>, names: &[String]) -> Result<()> {
        let script = tools::workspace().join("deploy/secrets.sh");
        let mut process = Program::new("secrets", script, &self.dir)
            .args(option)
            .args([self.secrets()])
            .args(names)
            .start()?;
        let status = process.wait(START_LIMIT).await?;
        ensure!(status.success(), "deploy/secrets.sh failed\n{}", process.log().tail(20));
        Ok(())
    }

    async fn issue(&self, name: &str) -> Result<()> {
        let script = format!(
            "echo extendedKeyUsage=clientAuth >extensions \
             && openssl req -newkey rsa:2048 -nodes -keyout {name}.key -subj /CN={name} -out request \
             && openssl x509 -req -in request -CA ca.crt -CAkey ca.key -set_serial 1 -days 2 \
                -extfile extensions -out {name}.crt"
        );
        let mut process = Program::new("issue", "/bin/sh", &self.secrets())
            .args(["-c", &script])
            .logs_in(&self.dir.join("logs"))
            .start()?;
        let status = process.wait(START_LIMIT).await?;
        ensure!(status.success(), "no certificate was issued\n{}", process.log().tail(20));
        Ok(())
    }

    /// The text of a configuration, with this machine's addresses and files in place of those that
    /// a container on this host would have.
    fn translate(&self, text: &str, ip: Ipv4Addr) -> String {
        let mut text = text.replace("/run/secrets", &self.secrets().display().to_string());
        for (name, address) in &self.known {
            text = text.replace(name, &address.to_string());
        }
        for anywhere in ["0.0.0.0", "127.0.0.1"] {
            for port in [4222, 6222, 8222, 8080, 9080, 9081] {
                let address = Self::address(ip, port).to_string();
                text = text.replace(&format!("{anywhere}:{port}"), &address);
            }
        }
        text
    }

    fn environment(&self, compose: &Compose, service: &str) -> Result<Env> {
        let environment = compose.service(service)?.environment();
        let nowhere = Ipv4Addr::UNSPECIFIED;
        Ok(environment
            .map(|(name, value)| (name.to_owned(), self.translate(&value, nowhere)))
            .collect())
    }

    /// How the harness connects, by the certificate of a role.
    fn client(&self, role: &str, inbox: &str) -> Result<ConnectOptions> {
        let file = |name: String| self.secrets().join(name);
        let certificate = file(format!("{role}.crt"));
        ensure!(certificate.is_file(), "there is no certificate of {role}");
        Ok(ConnectOptions::new()
            .require_tls(true)
            .add_root_certificates(file("ca.crt".to_owned()))
            .add_client_certificate(certificate, file(format!("{role}.key")))
            .custom_inbox_prefix(inbox))
    }

    fn launch_nats(
        &self,
        compose: &Compose,
        (name, certificate): (&str, &str),
        ip: Ipv4Addr,
        client: &ConnectOptions,
    ) -> Result<Nats> {
        let dir = self.dir.join(name);
        let (etc, data) = (dir.join("etc"), dir.join("data"));
        fs::create_dir_all(&etc)?;
        // One that the file does not have is like the first, but for its name.
        let service = if compose.services.contains_key(name) { name } else { NODES[0] };
        let mut env = self.environment(compose, service)?;
        env.push(("NATS_NAME".to_owned(), name.to_owned()));
        for (_, value) in env.iter_mut().filter(|(name, _)| name == "NATS_STORE") {
            let inside = value.strip_prefix("/data/").context("NATS_STORE is not in /data")?;
            *value = data.join(inside).display().to_string();
        }
        let service = compose.service(service)?;
        let mount = |to: &str| {
            let mount =
                service.volumes.iter().find_map(|volume| volume.split_once(&format!(":{to}")));
            mount.map(|(from, _)| from).with_context(|| format!("{name} mounts nothing as {to}"))
        };
        mount("/data")?;
        for entry in fs::read_dir(tools::workspace().join(mount("/etc/nats")?))? {
            let file = entry?.path();
            let text = self.translate(&fs::read_to_string(&file)?, ip);
            let text = ["crt", "key"].iter().fold(text, |text, end| {
                text.replace(&format!("/cluster.{end}"), &format!("/{certificate}.{end}"))
            });
            fs::write(etc.join(file.file_name().unwrap_or_default()), text)?;
        }
        let [option, config] = service.command.as_slice() else {
            anyhow::bail!("the command of {name} is not known here");
        };
        ensure!(option == "--config", "the command of {name} is not known here");
        let config = Path::new(config).strip_prefix("/etc/nats")?;
        let server = Configured {
            name: name.to_owned(),
            config: etc.join(config),
            env,
            address: Self::address(ip, 4222),
            monitoring: Self::address(ip, 8222),
            client: client.clone(),
        };
        Nats::launch_configured(&dir, server)
    }

    /// What an image sets for its program, as it is on this host.
    fn image(&self, stage: &str, ip: Ipv4Addr) -> Result<Env> {
        let dockerfile = fs::read_to_string(tools::workspace().join("Dockerfile"))?;
        let from = format!(" AS {stage}\n");
        let (_, stage) =
            dockerfile.split_once(&from).context("the Dockerfile has no such stage")?;
        let stage = stage.split("\nFROM ").next().unwrap_or_default();
        let set = stage.lines().filter_map(|line| line.strip_prefix("ENV "));
        let set = set.flat_map(str::split_whitespace).filter_map(|one| one.split_once('='));
        Ok(set.map(|(name, value)| (name.to_owned(), self.translate(value, ip))).collect())
    }

    async fn start_ingress(&mut self, parts: &Parts, names: &Names) -> Result<Ingress> {
        let ip = self.host();
        let image = self.image("ingress", ip)?;
        // Containers have their names from the beginning.
        self.ingresses.push(ip);
        names.set("ingress", self.ingresses.clone());
        parts.start_ingress(&borrowed(&image), &[]).await
    }

    fn forget_ingress(&mut self, addr: SocketAddr, names: &Names) {
        self.ingresses.retain(|ip| addr.ip() != *ip);
        names.set("ingress", self.ingresses.clone());
    }

    async fn start_worker(&mut self, parts: &Parts) -> Result<Worker> {
        let ip = self.host();
        let image = self.image("worker", ip)?;
        parts.start_worker(&borrowed(&image), &[]).await
    }

    async fn start_load_balancer(&mut self, name_server: SocketAddr) -> Result<LoadBalancer> {
        let addr = Self::address(self.host(), 8080);
        // As the image starts it.
        let config = tools::workspace().join("deploy/haproxy/haproxy.cfg");
        let port = |port| Self::address(Ipv4Addr::LOCALHOST, port).port();
        let process = Program::new("haproxy", tools::haproxy()?, &self.dir)
            .args([Path::new("-W"), Path::new("-db"), Path::new("-f"), &config])
            .env("LISTEN", addr.to_string())
            .env("INGRESS", format!("ingress:{}", port(8080)))
            .env("OPS_PORT", port(9080).to_string())
            .env("DNS", name_server.to_string())
            .start()?;
        let log = process.log();
        let accepts = async || tokio::net::TcpStream::connect(addr).await.ok().map(drop);
        let accepts = poll(START_LIMIT, accepts).await;
        accepts.with_context(|| format!("haproxy does not listen\n{}", log.tail(20)))?;
        Ok(LoadBalancer { process, addr })
    }
}

fn borrowed(env: &Env) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
