//! The question whether a process of this machine is ready, for those who start and watch it and
//! have no HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use crate::ops::client;
use crate::settings::{Invalid, Problems, listen_address};

const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// `ackline-ingress health` and `ackline-worker health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the process that is asked serves /readyz; the default is its own.
    // Not named as the daemon's own: a bad one would count as not given here, too.
    #[arg(long = "ops-listen", env = "OPS_LISTEN", value_name = "OPS_LISTEN")]
    asked: Option<String>,
}

/// Why the process counts as not ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It says so itself; its reasons, each on a line.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Nobody answers.
    #[error("no answer at {address}: {why}")]
    NoAnswer {
        /// Who was asked.
        address: SocketAddr,
        /// What came instead.
        why: String,
    },
}

impl HealthArgs {
    /// Asks the process that listens at this address, or at `default` if none was given.
    ///
    /// # Errors
    /// [`HealthError`]: print it, and exit with 1.
    pub async fn run(&self, default: &str) -> Result<(), HealthError> {
        let mut problems = Problems::default();
        let text = self.asked.as_deref().unwrap_or(default);
        let address = problems.take("--ops-listen (OPS_LISTEN)", listen_address(text));
        let address = reachable(problems.finish(address)?);
        let failed = |why: String| HealthError::NoAnswer { address, why };
        match tokio::time::timeout(ANSWER_LIMIT, client::get(address, "/readyz")).await {
            Err(_) => Err(failed(format!("nothing within {ANSWER_LIMIT:?}"))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok((StatusCode::OK, _))) => Ok(()),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, reasons))) => {
                Err(HealthError::NotReady(reasons.trim_end().to_owned()))
            }
            Ok(Ok((status, _))) => Err(failed(format!("{status}, which is not Ackline's answer"))),
        }
    }
}

/// Where a listener can be reached from this machine: one that listens everywhere, at home.
#[must_use]
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
