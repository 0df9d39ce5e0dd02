//! Ports that a server keeps over its restarts while other tests run beside it.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

/// Below the range that systems take port 0 and outgoing connections from, so that a server which
/// is down for a while does not lose its port to those.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

/// A TCP port of 127.0.0.1, leased until this is dropped or the process ends.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lease: File,
}

impl Port {
    /// Leases a port that is free and that no other harness process has leased.
    pub fn lease() -> Result<Self> {
        let user = rustix::process::getuid().as_raw();
        let leases = std::env::temp_dir().join(format!("ackline-ports-{user}"));
        fs::create_dir_all(&leases).with_context(|| format!("can't make {}", leases.display()))?;
        let start = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
        for offset in 0..COUNT {
            let number = FIRST + (start as u16 + offset) % COUNT;
            let file = File::create(leases.join(number.to_string()))?;
            match file.try_lock() {
                Ok(()) if is_free(number) => return Ok(Self { number, _lease: file }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        bail!("no port from {FIRST} on is free")
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The address to listen on.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

fn is_free(number: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
}
