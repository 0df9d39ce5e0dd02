//! The folder that `ackline up` keeps everything in.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long nats-server may take to end when its parent was killed.
const LAST_OWNER: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// Only the user who runs Ackline reads what is in the folder.
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The folder, locked for this process and the nats-server that it starts.
#[derive(Debug)]
pub(super) struct Data {
    dir: PathBuf,
    lock: File,
}

impl Data {
    /// Creates the folder if it is missing, and locks it.
    pub(super) async fn open(dir: &Path) -> anyhow::Result<Self> {
        let shown = dir.display();
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_DIR)
            .create(dir)
            .with_context(|| format!("--data: the folder {shown} can't be created"))?;
        let dir = dir.canonicalize().with_context(|| format!("--data: {shown}"))?;
        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .with_context(|| format!("--data: {} can't be written", path.display()))?;
        let deadline = Instant::now() + LAST_OWNER;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(POLL).await,
                Err(TryLockError::WouldBlock) => {
                    let owner = fs::read_to_string(&path).unwrap_or_default();
                    bail!(
                        "--data: another `ackline up` (process {}) has {shown} in use: stop it, or \
                         choose another folder",
                        owner.trim()
                    );
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("--data: {}", path.display()));
                }
            }
        }
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())
            .with_context(|| format!("--data: {} can't be written", path.display()))?;
        Ok(Self { dir, lock })
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The lock, for the child that has to keep it: the folder is free when both have ended.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// The file with the secret, as `--secrets-file` takes it. A random secret is made once.
    pub(super) fn secrets(&self) -> anyhow::Result<PathBuf> {
        let path = self.path("secrets");
        let create = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&path);
        let written = create.and_then(|mut file| {
            let [first, second] = [Uuid::new_v4(), Uuid::new_v4()].map(Uuid::simple);
            writeln!(file, "local:{first}{second}")
        });
        match written {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("--data: {} can't be written", path.display()))
            }
            _ => Ok(path),
        }
    }

    /// The address of the SQLite database.
    pub(super) fn database_url(&self) -> anyhow::Result<String> {
        let path = self.path("ackline.db");
        let path = path.to_str().context("--data: the folder's name must be UTF-8")?;
        let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        Ok(format!("sqlite:{path}?mode=rwc"))
    }
}
