//! The limits on a request, and on all requests together.

use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::bundle;
use shared::listener;
use shared::settings::{Problems, duration, number};

/// The largest body that fits a bundle with its metadata.
const LARGEST_BODY: usize = bundle::MAX_BYTES - bundle::MAX_METADATA_BYTES;

/// The limits as texts. Parsed together with all other settings.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// The most connections. More wait to be accepted, or evict one that has been waiting for its
    /// client for a second.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "4096")]
    max_connections: String,
    /// How long a connection may be silent after it was opened, including a TLS handshake.
    #[arg(long, env = "SILENCE_TIMEOUT", default_value = "10s")]
    silence_timeout: String,
    /// The largest head of a request, in bytes.
    #[arg(long, env = "MAX_HEADER_BYTES", default_value = "16384")]
    max_header_bytes: String,
    /// How long a head may take from its first byte to its last.
    #[arg(long, env = "HEADER_TIMEOUT", default_value = "10s")]
    header_timeout: String,
    /// The largest body, in bytes.
    #[arg(long, env = "MAX_BODY_BYTES", default_value = "65536")]
    max_body_bytes: String,
    /// How long a body may take to arrive.
    #[arg(long, env = "BODY_TIMEOUT", default_value = "10s")]
    body_timeout: String,
    /// How long a connection may idle between requests; keep it above the load balancer's limit.
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "75s")]
    idle_timeout: String,
    /// How long a sender may read nothing of its answers.
    #[arg(long, env = "WRITE_TIMEOUT", default_value = "30s")]
    write_timeout: String,
    /// The most requests in flight. More get 503 at once, or evict one whose body has been arriving
    /// for longer than a second.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "1024")]
    max_in_flight: String,
    /// How long a sender waits for the stream's confirmation before it gets 503.
    #[arg(long, env = "PUBLISH_DEADLINE", default_value = "12s")]
    publish_deadline: String,
}

/// File descriptors for everything else: operators, the broker, files that are read again.
const OTHER_FILES: usize = 128;

/// The limits on a request, and on all requests together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The limits on a connection.
    pub(crate) connection: listener::Limits,
    /// The largest body, in bytes.
    pub(crate) max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub(crate) body_timeout: Duration,
    /// The most requests in flight.
    pub(crate) max_in_flight: usize,
    /// How long a callback waits for its confirmation.
    pub(crate) publish_deadline: Duration,
}

impl Limits {
    /// Raises the process's limit on open files as far as it may, and allows no more connections
    /// than fit: without a descriptor no client could be accepted, nor the broker be reached.
    pub(crate) fn within_open_files(mut self) -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let open = if raised.is_ok() { maximum } else { current };
        let open = open.map_or(usize::MAX, |open| usize::try_from(open).unwrap_or(usize::MAX));
        let fit = open.saturating_sub(OTHER_FILES).max(1);
        if fit < self.connection.max_connections {
            tracing::warn!(
                "no more than {fit} connections are allowed instead of --max-connections {}: this \
                 process may open {open} files; raise that (ulimit -n)",
                self.connection.max_connections
            );
            self.connection.max_connections = fit;
        }
        if self.max_in_flight >= self.connection.max_connections {
            tracing::info!(
                "--max-in-flight {} is never reached with {} connections",
                self.max_in_flight,
                self.connection.max_connections
            );
        }
        self
    }
}

impl LimitArgs {
    pub(crate) fn check(&self, problems: &mut Problems) -> Option<Limits> {
        let mut whole = |name, text: &str, min, max| problems.take(name, number(text, min, max));
        let max_connections = whole("--max-connections", &self.max_connections, 1, 1_000_000);
        let max_header_bytes = whole(
            "--max-header-bytes",
            &self.max_header_bytes,
            listener::MIN_HEADER_BYTES,
            1 << 20,
        );
        let max_body_bytes = whole("--max-body-bytes", &self.max_body_bytes, 1, LARGEST_BODY);
        let max_in_flight = whole("--max-in-flight", &self.max_in_flight, 1, 1_000_000);
        let mut time = |name, text| problems.take(name, duration(text));
        let silence_timeout = time("--silence-timeout", &self.silence_timeout);
        let header_timeout = time("--header-timeout", &self.header_timeout);
        let body_timeout = time("--body-timeout", &self.body_timeout);
        let idle_timeout = time("--idle-timeout", &self.idle_timeout);
        let write_timeout = time("--write-timeout", &self.write_timeout);
        let publish_deadline = time("--publish-deadline", &self.publish_deadline);
        Some(Limits {
            connection: listener::Limits {
                max_connections: max_connections?,
                silence_timeout: silence_timeout?,
                max_header_bytes: max_header_bytes?,
                header_timeout: header_timeout?,
                idle_timeout: idle_timeout?,
                write_timeout: write_timeout?,
            },
            max_body_bytes: max_body_bytes?,
            body_timeout: body_timeout?,
            max_in_flight: max_in_flight?,
            publish_deadline: publish_deadline?,
        })
    }
}
