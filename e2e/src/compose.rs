//! docker-compose.yml as operators run it, on the container engine that `.ci/compose-test` brings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use sea_orm::{Database, DatabaseConnection};
use tempfile::TempDir;

use crate::http::{Answer, Client};
use crate::port::Port;
use crate::stack::{CALLBACK_PATH, poll, sign};
use crate::tools;

/// Above what any command may take: an image is there, and each part is given 60 s to become healthy.
const COMMAND_LIMIT: &str = "120";
/// How long a condition is waited for.
const WAIT_LIMIT: Duration = Duration::from_secs(90);
/// For the harness only. What is on an internal network alone can publish no port, and the two stay
/// apart.
const OVERRIDE: &str = "services:\n  \
                        nats-1: {ports: ['${BIND}:4222:4222'], networks: [broker-out]}\n  \
                        postgres: {ports: ['${BIND}:5432:5432'], networks: [data-out]}\n\
                        networks: {broker-out: , data-out: }\n";

/// A running deployment, in a directory like a clone's. Dropping it takes everything away.
#[derive(Debug)]
pub struct Deployment {
    dir: TempDir,
    /// The loopback address that it publishes its ports on.
    host: Ipv4Addr,
    _lease: Port,
}

impl Deployment {
    /// Starts everything with one NATS server, or with the three of `deploy/cluster.env`, and waits
    /// until it is healthy.
    pub async fn start(nodes: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ackline-deployed-").tempdir()?;
        let lease = Port::lease()?;
        let [high, low] = lease.number().to_be_bytes();
        let host = Ipv4Addr::new(127, high, low, 1);
        let deployment = Self { dir, host, _lease: lease };
        let root = tools::workspace();
        let env = match nodes {
            1 => "/dev/null",
            _ => "deploy/cluster.env",
        };
        let prepare = format!(
            "cp -r {root}/docker-compose.yml {root}/deploy . && rm -rf deploy/secrets \
             && deploy/secrets.sh deploy/secrets {host} && cp {env} .env \
             && printf '%s=%s\\n' BIND {host} CONSOLE_BIND {host} STREAM_MAX_BYTES 16777216 >>.env",
            root = root.display(),
        );
        deployment.run(&prepare).await?;
        std::fs::write(deployment.file("docker-compose.override.yml"), OVERRIDE)?;
        let up = deployment.run("docker compose up --detach --no-build --quiet-pull").await;
        up.with_context(|| deployment.logs())?;
        for (service, count) in [("ingress", 2), ("worker", 2), ("load-balancer", 1)] {
            deployment.healthy(service, count).await;
        }
        Ok(deployment)
    }

    /// Runs a script in the deployment's directory, which must succeed, and returns what it prints.
    pub async fn run(&self, script: &str) -> Result<String> {
        let mut command = self.command(script);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}` failed: {}\n{said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([COMMAND_LIMIT, "bash", "-o", "pipefail", "-c", script]);
        command.current_dir(self.dir.path()).stdin(std::process::Stdio::null());
        command
    }

    /// A file of the deployment's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The only line of a file in `deploy/secrets`.
    pub fn secret(&self, name: &str) -> Result<String> {
        let text = std::fs::read_to_string(self.file("deploy/secrets").join(name))?;
        Ok(text.trim_end().to_owned())
    }

    /// What callbacks are signed with.
    pub fn callback_secret(&self) -> Result<String> {
        let line = self.secret("callback-secrets")?;
        Ok(line.split_once(':').context("no secret in callback-secrets")?.1.to_owned())
    }

    /// Where a port is published.
    pub fn published(&self, port: u16) -> SocketAddr {
        (self.host, port).into()
    }

    /// The containers of a service that run, the oldest first: the id of each, and an address that it
    /// has on one of its networks.
    pub async fn containers(&self, service: &str) -> Result<Vec<(String, IpAddr)>> {
        let inspect = "docker inspect --format \
             '{{.Created}} {{.Id}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}'";
        let list = format!("docker compose ps --quiet {service} | xargs {inspect} | sort");
        let containers = self.run(&list).await?;
        let parse = |line: &str| {
            let mut words = line.split(' ').skip(1).map(str::to_owned);
            Some((words.next()?, words.next()?.parse().ok()?))
        };
        containers.lines().map(|line| parse(line).context("a container's line")).collect()
    }

    /// Waits until so many containers of a service are healthy, and no other one is there.
    pub async fn healthy(&self, service: &str, count: usize) {
        let list = format!("docker compose ps --all --format '{{{{.Health}}}}' {service}");
        let wanted = "healthy\n".repeat(count);
        self.wait_until(&format!("{count} of {service} are healthy"), async || {
            self.run(&list).await.is_ok_and(|found| found == wanted)
        })
        .await;
    }

    /// Waits until the condition holds.
    pub async fn wait_until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let holds = poll(WAIT_LIMIT, async || condition().await.then_some(())).await;
        assert!(holds.is_some(), "not within {WAIT_LIMIT:?}: {what}\n{}", self.logs());
    }

    fn logs(&self) -> String {
        let output =
            self.command("docker compose ps --all; docker compose logs --tail 20").output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// Gives a callback its time, signs it and posts it through the load balancer.
    pub async fn post(&self, body: String) -> Result<Answer> {
        let mut body: serde_json::Value = serde_json::from_str(&body)?;
        body["sent_at"] = chrono::Utc::now().timestamp().into();
        let body = body.to_string();
        let signature = sign(&self.callback_secret()?, body.as_bytes());
        let mut client = Client::new(self.published(8080));
        client
            .send(hyper::Method::POST, CALLBACK_PATH, &[("x-signature", &signature)], body.into())
            .await
    }

    /// A connection to the database as its owner.
    pub async fn db(&self) -> Result<DatabaseConnection> {
        self.db_as("ackline", "postgres-password").await
    }

    /// A connection to the database by this role, whose password is in this file of `deploy/secrets`.
    pub async fn db_as(&self, role: &str, secret: &str) -> Result<DatabaseConnection> {
        let (password, address) = (self.secret(secret)?, self.published(5432));
        let mut options =
            sea_orm::ConnectOptions::new(format!("postgres://{role}:{password}@{address}/ackline"));
        options.max_connections(2).sqlx_logging(false);
        Database::connect(options).await.context("can't connect to the database")
    }

    /// How a role connects to the broker, with the certificate that it has, and an inbox of this
    /// name.
    pub fn client(&self, role: &str, inbox: &str) -> ConnectOptions {
        let file = |name: String| self.file("deploy/secrets").join(name);
        ConnectOptions::new()
            .require_tls(true)
            .add_root_certificates(file("ca.crt".to_owned()))
            .add_client_certificate(file(format!("{role}.crt")), file(format!("{role}.key")))
            .custom_inbox_prefix(inbox)
    }

    /// Where the broker takes clients.
    pub fn nats_url(&self) -> String {
        format!("tls://{}", self.published(4222))
    }

    /// A connection as the operator.
    pub async fn operator(&self) -> Result<async_nats::Client> {
        let options = self.client("operator", "_INBOX_OPERATOR");
        options.connect(self.nats_url()).await.context("can't connect to the broker")
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.command("docker compose down --volumes --timeout 1").output();
    }
}
