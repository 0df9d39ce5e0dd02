//! A PgBouncer in front of a PostgreSQL.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(60);

/// One PgBouncer.
#[derive(Debug)]
pub struct PgBouncer {
    /// Its process.
    pub process: Process,
    port: Port,
    // Last, so that it is gone when its configuration is removed.
    _home: TempDir,
}

impl PgBouncer {
    /// Starts one of this pool mode that lets clients set what is `ignored`, to no effect.
    pub(crate) async fn start(
        server: SocketAddr,
        is_root: bool,
        mode: &str,
        ignored: &str,
    ) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ackline-pgbouncer-").tempdir()?;
        let port = Port::lease()?;
        let address = port.address();
        // It does not run as root, but changes by itself to whom it is told.
        let user = if is_root { "user = nobody" } else { "" };
        let configuration = format!(
            "[databases]\npostgres = user=ackline dbname=postgres host={} port={}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 20\n\
             ignore_startup_parameters = {ignored}\n{user}\n",
            server.ip(),
            server.port(),
            address.ip(),
            address.port(),
        );
        let file = home.path().join("pgbouncer.ini");
        fs::write(&file, configuration)?;
        let process = Program::new("pgbouncer", tools::pgbouncer()?, home.path())
            .args([&file])
            .logs_in(&home.path().join("logs"))
            .start()?;
        process.wait_for_line(|line| line.contains("process up"), START_LIMIT).await?;
        Ok(Self { process, port, _home: home })
    }

    /// The address of the database behind it.
    pub fn url(&self) -> String {
        format!("postgres://ackline@{}/postgres", self.port.address())
    }
}
