//! Settings are checked together: if any is bad, every bad value is named and nothing starts.

mod command_line;
mod problems;
mod values;

mod exposure;
mod file;

pub use self::command_line::{parse, parse_or_exit};
pub use self::exposure::warn_of_exposed;
pub use self::file::{Empty, InFile, Unusable};
pub use self::problems::{Invalid, Problems};
pub use self::values::{at_least, duration, duration_or_zero, listen_address, number, yes_or_no};
