//! The hosts of a deployment: what containers are elsewhere.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;

use super::{LoadBalancer, NODES, START_LIMIT};
use crate::compose::Compose;
use crate::names::Names;
use crate::nats::{Configured, Nats};
use crate::port::Port;
use crate::process::Program;
use crate::stack::{Env, Ingress, Parts, Worker, poll};
use crate::tools;

/// The loopback addresses that stand for containers. Each deployment has a network of its own, as
/// certainly as it has its leased port.
#[derive(Debug)]
pub(super) struct Hosts {
    dir: PathBuf,
    network: Port,
    hosts: u8,
    /// What texts name, as `HOST:PORT`, and where it is.
    pub(super) known: Vec<(String, SocketAddr)>,
}

impl Hosts {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let (dir, network) = (dir.to_owned(), Port::lease()?);
        Ok(Self { dir, network, hosts: 0, known: Vec::new() })
    }

    /// A new host.
    pub(super) fn host(&mut self) -> Ipv4Addr {
        let [high, low] = self.network.number().to_be_bytes();
        self.hosts += 1;
        Ipv4Addr::new(127, high, low, self.hosts)
    }

    /// A new host that is known by this name.
    pub(super) fn node(&mut self, name: &str) -> Ipv4Addr {
        let ip = self.host();
        for port in [4222, 6222] {
            self.known.push((format!("{name}:{port}"), Self::address(ip, port)));
        }
        ip
    }

    /// Above the ports that others of this machine may have taken on all addresses.
    pub(super) fn address(ip: Ipv4Addr, port: u16) -> SocketAddr {
        (ip, if port == 0 { 0 } else { port + 20_000 }).into()
    }

    pub(super) fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// The only line of a secret.
    pub(super) fn secret(&self, name: &str) -> Result<String> {
        let file = self.secrets().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Runs deploy/secrets.sh, for NATS servers that are also called these names.
    pub(super) async fn run_secrets(&self, option: Option<&str>, names: &[String]) -> Result<()> {
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

    pub(super) async fn issue(&self, name: &str) -> Result<()> {
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
    pub(super) fn translate(&self, text: &str, ip: Ipv4Addr) -> String {
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

    pub(super) fn environment(&self, compose: &Compose, service: &str) -> Result<Env> {
        let environment = compose.service(service)?.environment();
        let nowhere = Ipv4Addr::UNSPECIFIED;
        Ok(environment
            .map(|(name, value)| (name.to_owned(), self.translate(&value, nowhere)))
            .collect())
    }

    /// How the harness connects, by the certificate of a role.
    pub(super) fn client(&self, role: &str, inbox: &str) -> Result<ConnectOptions> {
        let file = |name: String| self.secrets().join(name);
        let certificate = file(format!("{role}.crt"));
        ensure!(certificate.is_file(), "there is no certificate of {role}");
        Ok(ConnectOptions::new()
            .require_tls(true)
            .add_root_certificates(file("ca.crt".to_owned()))
            .add_client_certificate(certificate, file(format!("{role}.key")))
            .custom_inbox_prefix(inbox))
    }

    pub(super) fn launch_nats(
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
    pub(super) fn image(&self, stage: &str, ip: Ipv4Addr) -> Result<Env> {
        let dockerfile = fs::read_to_string(tools::workspace().join("Dockerfile"))?;
        let from = format!(" AS {stage}\n");
        let (_, stage) =
            dockerfile.split_once(&from).context("the Dockerfile has no such stage")?;
        let stage = stage.split("\nFROM ").next().unwrap_or_default();
        let set = stage.lines().filter_map(|line| line.strip_prefix("ENV "));
        let set = set.flat_map(str::split_whitespace).filter_map(|one| one.split_once('='));
        Ok(set.map(|(name, value)| (name.to_owned(), self.translate(value, ip))).collect())
    }

    pub(super) async fn start_ingress(&mut self, parts: &Parts, names: &Names) -> Result<Ingress> {
        let ip = self.host();
        let image = self.image("ingress", ip)?;
        // Containers have their names from the beginning.
        names.add("ingress", ip);
        parts.start_ingress(&borrowed(&image), &[]).await
    }

    pub(super) async fn start_worker(&mut self, parts: &Parts, names: &Names) -> Result<Worker> {
        let ip = self.host();
        let image = self.image("worker", ip)?;
        names.add("worker", ip);
        parts.start_worker(&borrowed(&image), &[]).await
    }

    pub(super) async fn start_load_balancer(
        &mut self,
        name_server: SocketAddr,
    ) -> Result<LoadBalancer> {
        let ip = self.host();
        let (addr, console) = (Self::address(ip, 8080), Self::address(ip, 9081));
        // As the image starts it.
        let config = tools::workspace().join("deploy/haproxy/haproxy.cfg");
        let port = |port| Self::address(Ipv4Addr::LOCALHOST, port).port();
        let process = Program::new("haproxy", tools::haproxy()?, &self.dir)
            .args([Path::new("-W"), Path::new("-db"), Path::new("-f"), &config])
            .env("LISTEN", addr.to_string())
            .env("INGRESS", format!("ingress:{}", port(8080)))
            .env("OPS_PORT", port(9080).to_string())
            .env("CONSOLE", console.to_string())
            .env("WORKER", format!("worker:{}", port(9081)))
            .env("DNS", name_server.to_string())
            .start()?;
        let log = process.log();
        let accepts = async || tokio::net::TcpStream::connect(addr).await.ok().map(drop);
        let accepts = poll(START_LIMIT, accepts).await;
        accepts.with_context(|| format!("haproxy does not listen\n{}", log.tail(20)))?;
        Ok(LoadBalancer { process, addr, console })
    }
}

fn borrowed(env: &Env) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
