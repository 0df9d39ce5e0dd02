//! What was measured: a line each as it comes, and all of it as JSON at the end.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    part: String,
    what: String,
    value: f64,
    unit: &'static str,
}

/// A figure beside what it ought to be.
#[derive(Debug, Clone, Serialize)]
struct Target {
    what: &'static str,
    value: f64,
    bound: f64,
    /// Whether the bound is the least that it ought to be, or the most.
    at_least: bool,
    met: bool,
}

/// The machine that it was measured on.
#[derive(Debug, Clone, Serialize)]
struct Machine {
    processors: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    figures: Vec<Figure>,
    targets: Vec<Target>,
    #[serde(skip)]
    part: String,
}

impl Report {
    pub(crate) fn new() -> Self {
        let machine = Machine::here();
        let Machine { processors, processor, memory_mib, kernel } = &machine;
        println!("{processors} x {processor}, {memory_mib} MiB, Linux {kernel}");
        Self { machine, figures: Vec::new(), targets: Vec::new(), part: String::new() }
    }

    /// Begins a part: a title, and what is done in it.
    pub(crate) fn part(&mut self, part: impl Into<String>, about: &str) {
        self.part = part.into();
        println!("\n{}: {about}", self.part);
    }

    /// Adds a figure.
    pub(crate) fn figure(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        let what = what.into();
        println!("  {what:<66} {:>12} {unit}", readable(value));
        self.figures.push(Figure { part: self.part.clone(), what, value, unit });
    }

    /// Adds the latencies that half, 99 % and 99.9 % of all are not above, in milliseconds.
    pub(crate) fn quantiles(
        &mut self,
        what: &str,
        quantile_ms: impl Fn(f64) -> Result<f64>,
    ) -> Result<()> {
        for (part, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            self.figure(format!("{what}, {name}"), quantile_ms(part)?, "ms");
        }
        Ok(())
    }

    /// Adds a figure that ought to be at least so much.
    pub(crate) fn at_least(&mut self, what: &'static str, value: f64, bound: f64) {
        self.targets.push(Target { what, value, bound, at_least: true, met: value >= bound });
    }

    /// Adds a figure that ought to be below so much.
    pub(crate) fn below(&mut self, what: &'static str, value: f64, bound: f64) {
        self.targets.push(Target { what, value, bound, at_least: false, met: value < bound });
    }

    /// Shows the targets and writes all as JSON.
    pub(crate) fn end(&self, json: &Path) -> Result<()> {
        if !self.targets.is_empty() {
            println!("\n{:<66} {:>12} {:>12}", "TARGET", "MEASURED", "ASKED FOR");
        }
        for Target { what, value, bound, at_least, met } in &self.targets {
            let (sign, value) = (if *at_least { ">=" } else { "<" }, readable(*value));
            let bound = format!("{sign} {}", readable(*bound));
            println!(
                "{what:<66} {value:>12} {bound:>12}  {}",
                if *met { "met" } else { "NOT MET" }
            );
        }
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(json, text).with_context(|| format!("can't write {}", json.display()))?;
        println!("\n{}", json.display());
        Ok(())
    }
}

/// Three digits that count, or all before the point.
fn readable(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl Machine {
    fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory_mib: memory_kib / 1024,
            kernel: kernel.trim().to_owned(),
        }
    }
}
