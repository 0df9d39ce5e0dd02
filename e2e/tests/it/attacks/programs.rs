//! Programs that others wrote to attack or to load servers. Each is bounded in count and time.

use std::path::Path;

use anyhow::Result;
use e2e::process::{Process, Program};
use e2e::tools;

/// How slowhttptest attacks.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlowHttpTest {
    /// Heads that never end (Slowloris).
    Heads,
    /// Bodies that never end (R.U.D.Y.).
    Bodies,
    /// Answers that are read byte by byte.
    Readers,
}

impl SlowHttpTest {
    pub(super) const CONNECTIONS: usize = 400;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Heads => "slowhttptest -H",
            Self::Bodies => "slowhttptest -B",
            Self::Readers => "slowhttptest -X",
        }
    }

    /// Attacks for at most a minute.
    pub(super) fn begin(self, url: &str, dir: &Path) -> Result<Process> {
        let connections = Self::CONNECTIONS.to_string();
        let mode: &[&str] = match self {
            Self::Heads => &["-H", "-t", "POST", "-i", "1", "-x", "24"],
            Self::Bodies => &["-B", "-t", "POST", "-i", "1", "-x", "10", "-s", "8192"],
            // Ten requests at once, of whose answers it takes five bytes a second.
            Self::Readers => &["-X", "-k", "10", "-w", "10", "-y", "20", "-n", "1", "-z", "5"],
        };
        let program = Program::new("slowhttptest", tools::slowhttptest()?, dir)
            .args(mode)
            .args(["-c", &connections, "-r", &connections])
            .args(["-l", "60", "-p", "5", "-u", url]);
        program.start()
    }
}
