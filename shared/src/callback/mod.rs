//! The callback: the JSON object that a workflow sends.

mod contract;
mod scalar;

mod fields;

pub use self::contract::{
    Callback, Kind, MAX_ERROR_BYTES, MAX_EVENT_ID_BYTES, MAX_FAILED_STEP_BYTES,
    MAX_HEARTBEAT_TIMEOUT_S, MAX_JOB_ID_BYTES, MAX_NAME_BYTES, Malformed, Status,
};
pub use self::fields::{Fields, parse};

#[cfg(test)]
mod tests;
