//! The accept loop of every listener, with a limit on everything that a client can make it wait
//! for.

mod accept;
pub mod body;
mod connection;
mod limits;
mod metrics;
mod peer;
mod phase;

pub use self::accept::serve;
pub use self::connection::Tls;
pub use self::limits::{Limits, MIN_HEADER_BYTES};
pub use self::metrics::describe_metrics;
pub use self::peer::{Peer, forwarded_for, last_forwarded};
