//! Where the programs are: tools from `make tools`, our own binaries from `make build`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace that this crate was built in.
pub fn workspace() -> PathBuf {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e).to_owned()
}

/// nats-server: `NATS_SERVER`, or the pinned one.
pub fn nats_server() -> Result<PathBuf> {
    tool("NATS_SERVER", "bin/nats-server")
}

/// act, which runs GitHub Actions workflows: `ACT`, or the pinned one.
pub fn act() -> Result<PathBuf> {
    tool("ACT", "bin/act")
}

/// The directory of PostgreSQL's programs: `POSTGRES_BIN`, or the pinned ones.
pub fn postgres_bin() -> Result<PathBuf> {
    let bin = tool("POSTGRES_BIN", "postgres/bin")?;
    ensure!(bin.join("initdb").is_file(), "there is no initdb in {}", bin.display());
    Ok(bin)
}

/// Node.js: `NODE`, or the pinned one.
pub fn node() -> Result<PathBuf> {
    tool("NODE", "bin/node")
}

/// Python 3: `PYTHON`, or the one on `PATH`.
pub fn python() -> PathBuf {
    let named = std::env::var_os("PYTHON").filter(|path| !path.is_empty());
    named.map_or_else(|| "python3".into(), PathBuf::from)
}

/// libfaketime, which gives a program another clock: `FAKETIME`, or the pinned one.
pub fn faketime() -> Result<PathBuf> {
    tool("FAKETIME", "bin/libfaketime.so.1")
}

/// rotel, an OpenTelemetry collector: `ROTEL`, or the pinned one.
pub fn rotel() -> Result<PathBuf> {
    tool("ROTEL", "bin/rotel")
}

/// The libraries that senders sign with, in `python` and `node_modules`: `SIGNING_LIBRARIES`, or the
/// pinned ones.
pub fn senders() -> Result<PathBuf> {
    tool("SIGNING_LIBRARIES", "senders")
}

/// slowhttptest: `SLOWHTTPTEST`, or what `.ci/tools-debian` found.
pub fn slowhttptest() -> Result<PathBuf> {
    tool("SLOWHTTPTEST", "debian/slowhttptest")
}

/// haproxy: `HAPROXY`, or what `.ci/tools-debian` found.
pub fn haproxy() -> Result<PathBuf> {
    tool("HAPROXY", "debian/haproxy")
}

/// promtool: `PROMTOOL`, or what `.ci/tools-debian` found.
pub fn promtool() -> Result<PathBuf> {
    tool("PROMTOOL", "debian/promtool")
}

/// wrk: `WRK`, or what `.ci/tools-debian` found.
pub fn wrk() -> Result<PathBuf> {
    tool("WRK", "debian/wrk")
}

/// Chromium: `CHROMIUM`, or what `.ci/tools-debian` found.
pub fn chromium() -> Result<PathBuf> {
    tool("CHROMIUM", "debian/chromium")
}

/// PgBouncer: `PGBOUNCER`, or what `.ci/tools-debian` found.
pub fn pgbouncer() -> Result<PathBuf> {
    tool("PGBOUNCER", "debian/pgbouncer")
}

/// BusyBox: `BUSYBOX`, or what `.ci/tools-debian` found.
pub fn busybox() -> Result<PathBuf> {
    tool("BUSYBOX", "debian/busybox")
}

/// The folder `node_modules` with what drives a browser and judges a page: `BROWSER_MODULES`, or the
/// pinned one.
pub fn browser_modules() -> Result<PathBuf> {
    tool("BROWSER_MODULES", "browser/node_modules")
}

/// The folder with the Python package schemathesis and all that it imports, for [`python`]:
/// `SCHEMATHESIS`, or the pinned one.
pub fn schemathesis() -> Result<PathBuf> {
    tool("SCHEMATHESIS", "schemathesis")
}

fn tool(variable: &str, pinned: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return PathBuf::from(&path)
            .canonicalize()
            .with_context(|| format!("{variable} is {}, which is not there", path.display()));
    }
    let path = workspace().join(".tools").join(pinned);
    path.canonicalize().with_context(|| {
        let target = match variable {
            "SLOWHTTPTEST" | "WRK" => "test-door",
            "BUSYBOX" | "CHROMIUM" | "PGBOUNCER" | "PROMTOOL" => "test",
            _ => "tools",
        };
        format!("{} is missing: run `make {target}`, or set {variable}", path.display())
    })
}

/// Copies a folder into another, which is made if it is missing, so that everybody can read it.
pub(crate) fn copy_folder(folder: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    let script = "cp -rL \"$1\" \"$2\" && chmod -R a+rX \"$2/${1##*/}\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "copy"]).args([folder, into]);
    let status = command.status().context("can't run a shell")?;
    ensure!(status.success(), "can't copy {} to {}", folder.display(), into.display());
    Ok(())
}

/// Where the running executable was built.
pub(crate) fn build_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("can't find the running program")?;
    let dir = executable.parent().context("the running program has no directory")?;
    // Cargo puts tests one level deeper than binaries.
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// One of our binaries, `ingress` or `worker`: from `ACKLINE_BIN_DIR`, or from where the running
/// executable was built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("ACKLINE_BIN_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(dir)?,
        None => build_dir()?,
    };
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: run `make build`, or set ACKLINE_BIN_DIR",
        path.display()
    );
    Ok(path)
}
