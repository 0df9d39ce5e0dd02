//! The broker's address, and how a process authenticates.

mod access;
mod address;
mod tls;

mod failure;
mod servers;

mod args;

pub use self::args::BrokerArgs;
pub use self::failure::NotConnected;
pub use self::servers::Servers;
