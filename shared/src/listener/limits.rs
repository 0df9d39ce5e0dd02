//! What a listener allows its clients.

use std::time::Duration;

/// The smallest limit on a head: what hyper reads at once.
pub const MIN_HEADER_BYTES: usize = 8192;

/// What a listener allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. More wait to be accepted, or take the slot of one that is not in
    /// the middle of a request, and has not been for [`GRACE`](crate::eviction::GRACE).
    pub max_connections: usize,
    /// From being accepted to the first byte of a request, a TLS handshake included.
    pub silence_timeout: Duration,
    /// The size of a head; also how much of a body a connection buffers.
    pub max_header_bytes: usize,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For the client to read any part of an answer.
    pub write_timeout: Duration,
}
