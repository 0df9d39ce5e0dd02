//! Settings are checked whole: every bad value is named, then nothing starts.

mod problems;
mod values;

mod file;

pub use self::file::{Empty, InFile, Unusable};
pub use self::problems::{Invalid, Problems};
pub use self::values::{duration, listen_address, number};
