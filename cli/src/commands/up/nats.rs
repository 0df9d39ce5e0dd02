//! The NATS server of `ackline up`: a child that ends with its parent, however that ends.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::data::Data;

const PROGRAM: &str = "nats-server";
const POLL: Duration = Duration::from_millis(20);
/// How long it may take to end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How much of its log is shown when it ends by itself.
const TAIL_LINES: usize = 10;

/// What becomes nats-server: this program, until it has asked the kernel to end it with its parent.
/// Only a process itself can ask for that.
#[derive(Debug, Args)]
pub struct Exec {
    parent: i32,
    program: PathBuf,
    config: PathBuf,
}

impl Exec {
    /// Becomes nats-server.
    ///
    /// # Errors
    /// When the program can't be executed, or the parent is gone.
    pub fn run(&self) -> anyhow::Result<()> {
        // JetStream syncs what it confirms: it loses nothing, and frees the port and the lock.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let parent = rustix::process::getppid();
        ensure!(parent == Pid::from_raw(self.parent), "`ackline up` has ended");
        let mut command = std::process::Command::new(&self.program);
        Err(command.arg("--config").arg(&self.config).exec())
            .with_context(|| format!("{} can't be run", self.program.display()))
    }
}

/// Finds the program.
pub(super) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        ensure!(
            is_program(named),
            "--nats-server (NATS_SERVER): {} is not a program",
            named.display()
        );
        return Ok(std::path::absolute(named)?);
    }
    let beside = env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let here = env::current_dir().unwrap_or_default();
    let checkout = here.ancestors().map(|folder| folder.join(".tools/bin"));
    let mut candidates = beside
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(checkout)
        .map(|dir| dir.join(PROGRAM));
    let found = candidates.find(|candidate| is_program(candidate)).context(
        "nats-server is neither beside ackline, nor on PATH, nor in .tools/bin of this folder or of \
         one above it: get it from https://github.com/nats-io/nats-server/releases (in a checkout, \
         by `make tools`), or name it with --nats-server (NATS_SERVER)",
    )?;
    Ok(std::path::absolute(found)?)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The running server. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Nats {
    child: Child,
    log: PathBuf,
    /// Where it takes clients.
    pub(super) address: SocketAddr,
}

/// The file in which nats-server says where it listens.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Nats {
    /// Starts the server on a port of this machine, any for 0, and waits until it takes clients.
    /// It has recovered its streams by then.
    ///
    /// To be called on the main thread: the kernel ends the child with the thread that started it.
    pub(super) async fn start(program: &Path, data: &Data, port: u16) -> anyhow::Result<Self> {
        let ports = data.path("nats-ports");
        // A server that was killed has left its file there.
        let _ = fs::remove_dir_all(&ports);
        let config = data.path("nats.conf");
        let listen = if port == 0 { -1 } else { i32::from(port) };
        let (log, store) = (data.path("nats-server.log"), data.path("nats"));
        let text = format!(
            "# `ackline up` writes this file at every start.\n\
             server_name: ackline\nhost: \"{}\"\nport: {listen}\nports_file_dir: {ports:?}\n\
             jetstream {{\n  store_dir: {store:?}\n  sync_interval: always\n  \
             max_memory_store: 64MB\n  max_file_store: 1TB\n}}\n",
            Ipv4Addr::LOCALHOST,
        );
        let output = (|| {
            fs::create_dir(&ports)?;
            fs::write(&config, text)?;
            let log = File::create(&log)?;
            Ok::<_, std::io::Error>((log.try_clone()?, log))
        })();
        let (stdout, stderr) =
            output.context("--data: the files of nats-server can't be written")?;
        let child = Command::new(env::current_exe()?)
            .args(["exec-nats-server", &std::process::id().to_string()])
            .args([program, &config])
            // The secrets of the environment are none of its business.
            .env_clear()
            .stdin(data.lock()?)
            .stdout(stdout)
            .stderr(stderr)
            // Ctrl-C is for the parent, which ends its parts in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("nats-server can't be started")?;
        let pid = child.id().context("nats-server has ended")?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let ports = ports.join(format!("{name}_{pid}.ports"));
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut nats = Self { child, log, address: unknown };
        nats.address = loop {
            tokio::select! {
                why = nats.ended() => return Err(why),
                () = sleep(POLL) => {}
            }
            // It may be half written.
            let said = fs::read(&ports).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(Ports { nats: urls }) = said {
                let address =
                    urls.first().and_then(|url| url.strip_prefix("nats://")?.parse().ok());
                break address.context("nats-server does not say where it listens")?;
            }
        };
        Ok(nats)
    }

    /// Waits until it has ended, which it never should by itself; says why it did.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let status = self.child.wait().await;
        let status = status.as_ref().map_or_else(ToString::to_string, ExitStatus::to_string);
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        anyhow!("nats-server has ended ({status}); the end of {}:\n  {tail}", self.log.display())
    }

    /// Ends the server, and waits for that.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        // None when it has ended already.
        let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return Ok(());
        };
        rustix::process::kill_process(pid, Signal::TERM)?;
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(Into::into),
            Err(_) => {
                self.child.kill().await?;
                bail!("nats-server did not end within {STOP_LIMIT:?}, and was killed");
            }
        }
    }
}
