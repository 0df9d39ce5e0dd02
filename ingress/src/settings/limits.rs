//! The limits on a request, and on all requests together.

use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::bundle;
use shared::listener;
use shared::settings::{duration, number};
use shared::stream;

/// The largest body that fits a bundle with its metadata.
const LARGEST_BODY: usize = bundle::MAX_BYTES - bundle::MAX_METADATA_BYTES;

/// The limits on a request, and on all requests together.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Limits {
    /// The most connections. More wait to be accepted, or evict one that has been waiting for its
    /// client for a second.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "4096", value_parser = |text: &str| number::<usize>(text, 1, 1_000_000))]
    pub(crate) max_connections: usize,
    /// How long a connection may be silent after it was opened, including a TLS handshake.
    #[arg(long, env = "SILENCE_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub(crate) silence_timeout: Duration,
    /// The largest head of a request, in bytes, from 8192 on.
    #[arg(long, env = "MAX_HEADER_BYTES", default_value = "16384", value_parser = |text: &str| number::<usize>(text, listener::MIN_HEADER_BYTES, 1 << 20))]
    pub(crate) max_header_bytes: usize,
    /// How long a head may take from its first byte to its last.
    #[arg(long, env = "HEADER_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub(crate) header_timeout: Duration,
    /// The largest body, in bytes: at most 520192, and what the broker's `max_payload` allows.
    #[arg(long, env = "MAX_BODY_BYTES", default_value = "65536", value_parser = |text: &str| number::<usize>(text, 1, LARGEST_BODY))]
    pub(crate) max_body_bytes: usize,
    /// How long a body may take to arrive.
    #[arg(long, env = "BODY_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub(crate) body_timeout: Duration,
    /// How long a connection may be idle between requests. Keep it above the load balancer's limit.
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "75s", value_parser = duration)]
    pub(crate) idle_timeout: Duration,
    /// How long a sender may read nothing of its answers.
    #[arg(long, env = "WRITE_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub(crate) write_timeout: Duration,
    /// The most requests in flight. More get 503 at once, or evict one whose body has been arriving
    /// for longer than a second.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "1024", value_parser = |text: &str| number::<usize>(text, 1, 1_000_000))]
    pub(crate) max_in_flight: usize,
    /// How long a sender waits for the stream's confirmation before it gets 503. The election of a
    /// leader takes 4–8 s. Without leaders for longer, ingress is not ready. At most 60s: for twice
    /// as long the streams recognise a bundle that is sent again.
    #[arg(long, env = "PUBLISH_DEADLINE", default_value = "12s", value_parser = publish_deadline)]
    pub(crate) publish_deadline: Duration,
}

/// A bundle is sent again for as long as somebody waits for it, and its last callback may have joined
/// it late. Half of the window is left for that and for what is still on its way.
fn publish_deadline(text: &str) -> Result<Duration, String> {
    let deadline = duration(text)?;
    let longest = stream::DUPLICATE_WINDOW / 2;
    if deadline > longest {
        return Err(format!(
            "{text:?} is longer than {}s: the streams recognise a bundle that is sent again for {}s",
            longest.as_secs(),
            stream::DUPLICATE_WINDOW.as_secs()
        ));
    }
    Ok(deadline)
}

/// File descriptors for everything else: operators, the broker, files that are read again.
const OTHER_FILES: usize = 128;

impl Limits {
    /// The limits on a connection.
    pub(crate) fn connection(&self) -> listener::Limits {
        listener::Limits {
            max_connections: self.max_connections,
            silence_timeout: self.silence_timeout,
            max_header_bytes: self.max_header_bytes,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            write_timeout: self.write_timeout,
        }
    }

    /// Raises the process's limit on open files as far as it may, and allows no more connections
    /// than fit: without a descriptor no client could be accepted, nor the broker be reached.
    pub(crate) fn within_open_files(mut self) -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let open = if raised.is_ok() { maximum } else { current };
        let open = open.map_or(usize::MAX, |open| usize::try_from(open).unwrap_or(usize::MAX));
        let fit = open.saturating_sub(OTHER_FILES).max(1);
        if fit < self.max_connections {
            tracing::warn!(
                "no more than {fit} connections are allowed instead of --max-connections {}: this \
                 process may open {open} files; raise that (ulimit -n)",
                self.max_connections
            );
            self.max_connections = fit;
        }
        if self.max_in_flight >= self.max_connections {
            tracing::info!(
                "--max-in-flight {} is never reached with {} connections",
                self.max_in_flight,
                self.max_connections
            );
        }
        self
    }
}
