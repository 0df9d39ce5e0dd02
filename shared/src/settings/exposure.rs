//! Warns of files with secrets that others can read or change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Logs a warning if users other than the file's owner can change it; or can read it, although this
/// process could forbid it, because it owns the file. A file that another user provides, as
/// container engines do, is often readable to all because it must be.
pub fn warn_of_exposed(setting: &str, file: &Path) {
    let Ok(found) = std::fs::metadata(file) else { return };
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if let Some(problem) = exposure(found.mode(), is_own) {
        let file = file.display();
        tracing::warn!(%file, "{setting}: others can {problem} {file}: run chmod 600 {file}");
    }
}

fn exposure(mode: u32, is_own: bool) -> Option<&'static str> {
    match (mode & 0o022 != 0, is_own && mode & 0o044 != 0) {
        (true, true) => Some("read and change"),
        (true, false) => Some("change"),
        (false, true) => Some("read"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::exposure;

    #[test]
    fn what_others_can_do_with_a_file_is_named() {
        for (mode, own, foreign) in [
            (0o100_600, None, None),
            (0o100_400, None, None),
            (0o100_700, None, None),
            (0o100_640, Some("read"), None),
            (0o100_644, Some("read"), None),
            (0o100_604, Some("read"), None),
            (0o100_620, Some("change"), Some("change")),
            (0o100_602, Some("change"), Some("change")),
            (0o100_666, Some("read and change"), Some("change")),
        ] {
            assert_eq!(exposure(mode, true), own, "{mode:o}");
            assert_eq!(exposure(mode, false), foreign, "{mode:o}");
        }
    }
}
