//! All parts of Ackline together, in a directory of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::http::{self, Answer, Client};
use crate::nats::Settings;
use crate::port::Port;
use crate::postgres::Postgres;
use crate::process::{Log, Process, Program};
use crate::tools;

/// How many partitions a stack has unless it chooses otherwise: more than a new deployment, so that
/// there is more to own.
pub const PARTITIONS: u16 = 16;

/// Where callbacks are sent to.
pub const CALLBACK_PATH: &str = "/api/webhooks/github";
/// The secret of a stack that was given none. No log may ever contain it.
pub const TEST_SECRET: &str = "never-log-this-test-secret-5b1f";

const POLL: Duration = Duration::from_millis(20);
const START_LIMIT: Duration = Duration::from_secs(60);
/// Above the patience of `ackline migrate`.
const COMMAND_LIMIT: Duration = Duration::from_secs(90);
/// A little above the processes' own grace.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Which database the worker writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Db {
    /// A file in the stack's directory.
    Sqlite,
    /// A PostgreSQL cluster of the stack's own.
    Postgres,
}

impl Db {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// How a stack is made.
#[derive(Debug)]
pub struct Builder {
    db: Db,
    secret: String,
    dir: Option<PathBuf>,
    nats_port: Option<Port>,
    nats: Settings,
    is_cluster: bool,
    ingress_listen: (SocketAddr, SocketAddr),
    worker_ops: SocketAddr,
    partitions: u16,
    stream_max_bytes: u64,
    stream_replicas: Option<usize>,
    env: Vec<(String, String)>,
    kept_lines: usize,
}

impl Builder {
    /// Chooses the database; SQLite otherwise.
    pub fn db(mut self, db: Db) -> Self {
        self.db = db;
        self
    }

    /// Chooses the callbacks' secret; [`TEST_SECRET`] otherwise.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = secret.into();
        self
    }

    /// Keeps everything in this directory, and leaves it there at the end.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Makes the broker a cluster of three nodes, with a copy of each stream on each.
    pub fn cluster(mut self) -> Self {
        self.is_cluster = true;
        self
    }

    /// Chooses the port of a broker that is one server; otherwise one that is free.
    pub fn nats_port(mut self, port: Port) -> Self {
        self.nats_port = Some(port);
        self
    }

    /// Adds lines to the broker's configuration.
    pub fn nats_config(mut self, lines: impl Into<String>) -> Self {
        self.nats.more = lines.into();
        self
    }

    /// Says how the harness connects to the broker, where everybody may not.
    pub fn nats_client(mut self, options: async_nats::ConnectOptions) -> Self {
        self.nats.client = options;
        self
    }

    /// Chooses where ingress listens, for callbacks and for operators; otherwise any free ports.
    pub fn ingress_listen(mut self, callbacks: SocketAddr, ops: SocketAddr) -> Self {
        self.ingress_listen = (callbacks, ops);
        self
    }

    /// Chooses the number of partitions; [`PARTITIONS`] otherwise.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// Chooses how much each stream may hold; 64 MiB otherwise.
    pub fn stream_max_bytes(mut self, bytes: u64) -> Self {
        self.stream_max_bytes = bytes;
        self
    }

    /// Chooses how many copies each stream has; one on each node otherwise.
    pub fn stream_replicas(mut self, replicas: usize) -> Self {
        self.stream_replicas = Some(replicas);
        self
    }

    /// Sets a variable for every `ingress` and `worker`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Bounds how many lines of each process's output stay in memory; all of them otherwise.
    pub fn keep_lines(mut self, lines: usize) -> Self {
        self.kept_lines = lines;
        self
    }

    /// Starts the broker and the database, migrates, and starts `worker` and `ingress`.
    pub async fn start(self) -> Result<Stack> {
        let (dir, temporary) = match self.dir {
            Some(dir) => (dir, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("ackline-e2e-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let nats = if self.is_cluster {
            Cluster::three(&dir, &self.nats).await?
        } else {
            let port = self.nats_port.map_or_else(Port::lease, Ok)?;
            Cluster::single(&dir, port, &self.nats).await?
        };
        let postgres = match self.db {
            Db::Sqlite => None,
            Db::Postgres => Some(Postgres::start(&dir).await?),
        };
        let database_url = match &postgres {
            Some(postgres) => postgres.url(),
            None => sqlite_url(&dir.join("ackline.db")),
        };
        let replicas = self.stream_replicas.unwrap_or(nats.size());
        let set = |own: &[(&str, String)]| -> Env {
            let nats_url = ("NATS_URL", nats.url());
            let own =
                own.iter().chain([&nats_url]).map(|(name, value)| ((*name).into(), value.clone()));
            own.chain(self.env.iter().cloned()).collect()
        };
        // Each role gets what is its own, as in production.
        let database = ("DATABASE_URL", database_url.clone());
        let roles = Roles {
            ingress: set(&[("CALLBACK_SECRET", self.secret.clone())]),
            worker: set(std::slice::from_ref(&database)),
            person: set(&[("CALLBACK_SECRET", self.secret.clone()), database.clone()]),
            operator: set(&[
                database,
                ("PARTITIONS", self.partitions.to_string()),
                ("STREAM_MAX_BYTES", self.stream_max_bytes.to_string()),
                ("STREAM_REPLICAS", replicas.to_string()),
            ]),
        };
        let parts = Parts {
            dir,
            roles,
            database_url,
            secret: self.secret,
            ingress_listen: self.ingress_listen,
            worker_ops: self.worker_ops,
            kept_lines: self.kept_lines,
            started: Mutex::default(),
            logs: Mutex::default(),
        };
        parts.migrate().await?;
        let worker = parts.start_worker(&[], &[]).await?;
        let ingress = parts.start_ingress(&[], &[]).await?;
        Ok(Stack { ingress, worker, nats, postgres, parts, temporary })
    }
}

/// A running `ackline-ingress`.
#[derive(Debug)]
pub struct Ingress {
    /// Its process.
    pub process: Process,
    /// Where it takes callbacks.
    pub addr: SocketAddr,
    /// Where it answers operators.
    pub ops: SocketAddr,
}

impl Ingress {
    /// Posts a body with exactly these header fields (and `Host` and `Content-Length`).
    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        Client::new(self.addr).send(Method::POST, CALLBACK_PATH, headers, body.into()).await
    }
}

/// A running `ackline-worker`.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Where it answers operators.
    pub ops: SocketAddr,
}

/// The running parts. Dropping it ends them; after a panic its directory stays for a look.
#[derive(Debug)]
pub struct Stack {
    /// The ingress that callbacks are posted to.
    pub ingress: Ingress,
    /// The worker that was started last by [`Stack::start_worker`].
    pub worker: Worker,
    /// The broker.
    pub nats: Cluster,
    /// The database server, unless the database is SQLite.
    pub postgres: Option<Postgres>,
    parts: Parts,
    // Last, so that every process is gone when its files are removed.
    temporary: Option<TempDir>,
}

impl Stack {
    /// A stack with everything at its default.
    pub fn builder() -> Builder {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Builder {
            db: Db::Sqlite,
            secret: TEST_SECRET.to_owned(),
            dir: None,
            nats_port: None,
            nats: Settings::default(),
            is_cluster: false,
            ingress_listen: (any, any),
            worker_ops: any,
            partitions: PARTITIONS,
            stream_max_bytes: 64 * 1024 * 1024,
            stream_replicas: None,
            env: Vec::new(),
            kept_lines: usize::MAX,
        }
    }

    /// Starts a stack on this database.
    pub async fn start(db: Db) -> Result<Self> {
        Self::builder().db(db).start().await
    }

    /// The directory that everything is in, with `logs/` for each process's output.
    pub fn dir(&self) -> &Path {
        &self.parts.dir
    }

    /// The secret that callbacks are signed with.
    pub fn secret(&self) -> &str {
        &self.parts.secret
    }

    /// What `DATABASE_URL` is for the worker.
    pub fn database_url(&self) -> &str {
        &self.parts.database_url
    }

    /// Starts a worker in place of the last one, which is killed if it still runs.
    pub async fn start_worker(&mut self) -> Result<()> {
        self.worker.process.kill9();
        self.worker = self.parts.start_worker(&[], &[]).await?;
        Ok(())
    }

    /// Starts one more worker with these variables and arguments.
    pub async fn start_worker_with(&self, env: &[(&str, &str)], args: &[&str]) -> Result<Worker> {
        self.parts.start_worker(env, args).await
    }

    /// Starts an ingress in place of the last one, which is killed if it still runs. It listens
    /// somewhere else, unless the stack's ports were chosen.
    pub async fn start_ingress(&mut self) -> Result<()> {
        self.ingress.process.kill9();
        self.ingress = self.parts.start_ingress(&[], &[]).await?;
        Ok(())
    }

    /// Starts one more ingress with these variables and arguments.
    pub async fn start_ingress_with(&self, env: &[(&str, &str)], args: &[&str]) -> Result<Ingress> {
        self.parts.start_ingress(env, args).await
    }

    /// A program of ours that is not started yet, with the stack's addresses in its environment:
    /// for what must not become ready, or must end by itself.
    pub fn program(&self, binary: &str) -> Result<Program> {
        self.parts.program(binary)
    }

    /// Starts such a program, and keeps its output for [`Stack::all_logs`].
    pub fn spawn(&self, program: &Program) -> Result<Process> {
        self.parts.spawn(program)
    }

    /// Ends ingress, then the worker, then the servers, each with a signal and a wait.
    pub async fn shut_down(&mut self) -> Result<()> {
        let mut problems = Vec::new();
        for process in [&mut self.ingress.process, &mut self.worker.process] {
            match process.terminate(STOP_LIMIT).await {
                Ok(status) if status.success() => {}
                Ok(status) => problems.push(format!("{} ended with {status}", process.name())),
                Err(error) => problems.push(format!("{error:#}")),
            }
            process.kill9();
        }
        if let Err(error) = self.nats.stop_server().await {
            problems.push(format!("{error:#}"));
        }
        if let Some(postgres) = &mut self.postgres
            && let Err(error) = postgres.stop_server().await
        {
            problems.push(format!("{error:#}"));
        }
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }

    /// Where senders send callbacks to.
    pub fn callback_url(&self) -> String {
        format!("http://{}{CALLBACK_PATH}", self.ingress.addr)
    }

    /// The value of `X-Signature` for a body.
    pub fn sign(&self, body: &[u8]) -> String {
        sign(&self.parts.secret, body)
    }

    /// Signs a body and posts it.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Answer> {
        let body = body.into();
        let signature = self.sign(&body);
        self.ingress.post(&[("x-signature", &signature)], body).await
    }

    /// Runs a command of `ackline`, which must succeed, and returns the JSON that it prints.
    pub async fn ackline_json(&self, args: &[&str]) -> Result<Value> {
        let output = self.ackline(args).await?;
        serde_json::from_str(&output)
            .with_context(|| format!("ackline {} does not print JSON: {output}", args.join(" ")))
    }

    /// Runs a command of `ackline`, which must succeed, and returns what it prints. The addresses,
    /// the secret and `CALLBACK_URL` are in its environment.
    pub async fn ackline(&self, args: &[&str]) -> Result<String> {
        let role = &self.parts.roles.person;
        self.parts.command(args, role, &[("CALLBACK_URL", &self.callback_url())]).await
    }

    /// A connection to the worker's database, to look into.
    pub async fn db(&self) -> Result<DatabaseConnection> {
        let mut options =
            ConnectOptions::new(self.parts.database_url.replace("mode=rwc", "mode=rw"));
        options.max_connections(2).sqlx_logging(false);
        Database::connect(options).await.context("can't connect to the database")
    }

    /// Everything that any process of this stack has written so far.
    pub fn all_logs(&self) -> String {
        self.logs().iter().map(|log| log.text()).collect()
    }

    /// The last lines of every process.
    pub fn tail(&self) -> String {
        self.logs().iter().map(|log| log.tail(15)).collect()
    }

    /// Waits until the condition holds.
    pub async fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        mut condition: impl AsyncFnMut() -> bool,
    ) {
        self.wait_for(what, timeout, async || condition().await.then_some(())).await;
    }

    /// Waits until there is such a value.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        value: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        match poll(timeout, value).await {
            Some(value) => value,
            None => panic!("not within {timeout:?}: {what}\n{}", self.tail()),
        }
    }

    fn logs(&self) -> Vec<Arc<Log>> {
        let postgres = self.postgres.iter().flat_map(|postgres| postgres.process.logs());
        let ours = self.parts.logs.lock().unwrap_or_else(PoisonError::into_inner);
        self.nats.logs().chain(postgres).chain(ours.iter().cloned()).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(temporary) = &mut self.temporary
            && std::thread::panicking()
        {
            temporary.disable_cleanup(true);
        }
    }
}

/// The value of `X-Signature` for a body; written independently of the code that checks it.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        // HMAC takes keys of any length.
        return String::new();
    };
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// A secret that nobody can guess.
pub fn random_secret() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = File::open("/dev/urandom").context("can't open /dev/urandom")?;
    random.read_exact(&mut bytes).context("can't read /dev/urandom")?;
    Ok(hex::encode(bytes))
}

fn sqlite_url(file: &Path) -> String {
    let path = file.display().to_string();
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite:{path}?mode=rwc")
}

/// Variables of a process.
type Env = Vec<(String, String)>;

/// What each role is told.
#[derive(Debug)]
struct Roles {
    ingress: Env,
    worker: Env,
    /// `ackline`, but for `migrate`.
    person: Env,
    /// `ackline migrate`.
    operator: Env,
}

/// What is needed to start one more of our processes.
#[derive(Debug)]
struct Parts {
    dir: PathBuf,
    roles: Roles,
    /// For the harness.
    database_url: String,
    secret: String,
    ingress_listen: (SocketAddr, SocketAddr),
    worker_ops: SocketAddr,
    kept_lines: usize,
    /// How many processes had each name; they are told apart in the logs.
    started: Mutex<HashMap<String, usize>>,
    logs: Mutex<Vec<Arc<Log>>>,
}

impl Parts {
    /// A program that stays.
    fn program(&self, binary: &str) -> Result<Program> {
        let role = match binary {
            "ackline-ingress" => &self.roles.ingress,
            "ackline-worker" => &self.roles.worker,
            _ => &self.roles.person,
        };
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let count = started.entry(binary.to_owned()).or_default();
        *count += 1;
        match *count {
            1 => self.named(binary, binary, role),
            count => self.named(binary, &format!("{binary}-{count}"), role),
        }
    }

    fn named(&self, binary: &str, name: &str, role: &Env) -> Result<Program> {
        let program = Program::new(name, tools::binary(binary)?, &self.dir);
        let role = role.iter().map(|(name, value)| (name, value));
        Ok(program.keep_lines(self.kept_lines).envs(role))
    }

    fn spawn(&self, program: &Program) -> Result<Process> {
        let process = program.start()?;
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(process.log());
        Ok(process)
    }

    /// Makes the schema and the streams.
    async fn migrate(&self) -> Result<()> {
        self.command(&["migrate"], &self.roles.operator, &[]).await.map(drop)
    }

    async fn command(&self, args: &[&str], role: &Env, env: &[(&str, &str)]) -> Result<String> {
        let command = args.first().copied().unwrap_or_default();
        let program = self.named("ackline", &format!("ackline-{command}"), role)?;
        let mut process = self.spawn(&program.args(args).envs(env.iter().copied()))?;
        let status = process.wait(COMMAND_LIMIT).await?;
        let log = process.log();
        ensure!(status.success(), "`ackline {command}` failed: {status}\n{}", log.tail(20));
        Ok(log.stdout())
    }

    async fn start_ingress(&self, env: &[(&str, &str)], args: &[&str]) -> Result<Ingress> {
        let (callbacks, ops) = self.ingress_listen;
        let program = self
            .program("ackline-ingress")?
            .env("INGRESS_LISTEN", callbacks.to_string())
            .env("OPS_LISTEN", ops.to_string())
            .envs(env.iter().copied())
            .args(args);
        let process = self.spawn(&program)?;
        let listening = listening(&process).await?;
        let (addr, ops) = (address(&listening, "addr")?, address(&listening, "ops")?);
        until_ready(&process, ops).await?;
        Ok(Ingress { process, addr, ops })
    }

    async fn start_worker(&self, env: &[(&str, &str)], args: &[&str]) -> Result<Worker> {
        let program = self
            .program("ackline-worker")?
            .env("OPS_LISTEN", self.worker_ops.to_string())
            .envs(env.iter().copied())
            .args(args);
        let process = self.spawn(&program)?;
        let ops = address(&listening(&process).await?, "ops")?;
        until_ready(&process, ops).await?;
        Ok(Worker { process, ops })
    }
}

/// Waits for the line of a process's log that says where it listens.
pub async fn listening(process: &Process) -> Result<Value> {
    let says_so = |line: &str| line.contains(r#""message":"listening""#);
    let line = process.wait_for_line(says_so, START_LIMIT).await?;
    serde_json::from_str(&line).with_context(|| format!("this is not JSON: {line}"))
}

/// An address in such a line: `addr` is for callbacks, `ops` for operators.
pub fn address(listening: &Value, field: &str) -> Result<SocketAddr> {
    let text = listening[field].as_str().unwrap_or_default();
    text.parse().with_context(|| format!("no address in the field {field} of {listening}"))
}

async fn until_ready(process: &Process, ops: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let problem = match http::get(ops, "/readyz").await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => answer.text(),
            Err(error) => format!("{error:#}"),
        };
        if !process.is_running() || Instant::now() >= deadline {
            let (name, tail) = (process.name(), process.log().tail(20));
            bail!("{name} does not become ready: {problem}\n{tail}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Looks again and again until there is such a value, or the time is over.
pub(crate) async fn poll<T>(
    timeout: Duration,
    mut value: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = value().await {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_signature_is_that_of_the_published_example() {
        // The example in GitHub's documentation on validating webhook deliveries.
        assert_eq!(
            super::sign("It's a Secret to Everybody", b"Hello, World!"),
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
