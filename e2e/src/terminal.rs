//! A terminal that nobody sits before.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Wide enough for every table.
const SIZE: Winsize = Winsize { ws_col: 200, ws_row: 30, ws_xpixel: 0, ws_ypixel: 0 };

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// What the person sees.
    pub(crate) outer: File,
    /// What the program has.
    pub(crate) inner: File,
}

impl Terminal {
    /// A new one, which is nobody's controlling terminal.
    pub(crate) fn open() -> io::Result<Self> {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&outer)?;
        unlockpt(&outer)?;
        let name = ptsname(&outer, Vec::new())?;
        let name = name.to_str().map_err(io::Error::other)?;
        // Whoever opens it leads no session of its own, so it becomes nobody's.
        let inner = OpenOptions::new().read(true).write(true).open(Path::new(name))?;
        tcsetwinsize(&inner, SIZE)?;
        Ok(Self { outer: outer.into(), inner })
    }
}
