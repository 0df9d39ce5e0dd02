//! What ingress and worker must agree on: what a callback is, which partition it belongs to, how
//! callbacks travel through the stream, and how both processes are configured, observed and ended.

pub mod callback;
pub mod partition;

pub mod bundle;
pub mod stream;

pub mod broker;
pub mod secret;
pub mod settings;

pub mod eviction;
pub mod health;
pub mod https;
pub mod listener;
pub mod ops;
pub mod turns;

pub mod shutdown;
pub mod telemetry;
pub mod trace;
