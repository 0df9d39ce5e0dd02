//! What must hold of everything that strangers can send, whatever they send.
//!
//! Each module has a `check`, which takes any bytes and panics when a promise is broken. `make fuzz`
//! calls them with what libFuzzer invents, the tests with the inputs that it found (`corpus/`).

#![expect(clippy::expect_used, reason = "a check fails by a panic")]

pub mod bundle;
pub mod callback;
pub mod secrets;
pub mod signature;

/// What a function returns, and the most bytes that it held at a time.
fn with_peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let mut result = None;
    let allocated = allocation_counter::measure(|| result = Some(work()));
    (result.expect("the work was done"), allocated.bytes_max)
}
