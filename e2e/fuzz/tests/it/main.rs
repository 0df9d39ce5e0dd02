//! What `make fuzz` asks of random input, asked of the inputs that it found and of generated ones.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod corpus;
mod properties;
