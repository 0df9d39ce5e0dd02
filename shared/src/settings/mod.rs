//! Settings are checked together: if any is bad, every bad value is named and nothing starts.

mod problems;
mod values;

mod file;

pub use self::file::{Empty, InFile, Unusable};
pub use self::problems::{Invalid, Problems};
pub use self::values::{duration, listen_address, number};
