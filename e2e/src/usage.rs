//! What `/proc` says of a process.

use anyhow::{Context, Result};

/// A process's memory, in KiB: `VmRSS` is what it uses, `VmHWM` the most so far. Nothing when it
/// has ended.
pub fn memory_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The most memory that a process has used so far, in MiB.
pub fn peak_mib(pid: u32) -> Result<f64> {
    Ok(memory_kib(pid, "VmHWM").context("the process has ended")? as f64 / 1024.0)
}

/// How much of a processor a process has used so far, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("no times in stat")?.parse()?) };
    let per_second = rustix::param::clock_ticks_per_second();
    Ok((ticks()? + ticks()?) / per_second as f64)
}
