//! Progress bars, on standard error and only if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use worker::audit::progress::{Progress, Step};

/// How often a bar is drawn without progress.
const TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{msg} [{bar:40}] {human_pos}/{human_len} {prefix}, {rate}, {left}";

/// Whether there are bars, and the current one.
#[derive(Debug, Clone)]
pub struct Bars {
    are_shown: bool,
    current: Arc<Mutex<Option<ProgressBar>>>,
}

/// A bar, which is erased at the end.
#[derive(Debug)]
pub(crate) struct Bar {
    /// The progress that it shows.
    pub(crate) progress: Progress,
    current: Arc<Mutex<Option<ProgressBar>>>,
}

impl Bars {
    /// Bars on standard error; none if it is not a terminal.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self { are_shown: io::stderr().is_terminal(), current: Arc::default() }
    }

    /// Begins a bar, in place of the previous one: "`doing` [###---] 12/34 `units`, …".
    pub(crate) fn begin(&self, doing: &'static str, units: &'static str) -> Bar {
        let current = Arc::clone(&self.current);
        let Some(style) = self.are_shown.then(style).flatten() else {
            return Bar { progress: Progress::default(), current };
        };
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
            .with_style(style)
            .with_message(doing)
            .with_prefix(units);
        *lock(&current) = Some(bar.clone());
        let progress = Progress::to(move |step| match step {
            Step::Remaining(amount) => {
                bar.set_length(bar.position().saturating_add(amount));
                // Nothing is drawn before there is something to show.
                bar.enable_steady_tick(TICK);
            }
            Step::Done(amount) => bar.inc(amount),
        });
        Bar { progress, current }
    }

    /// Standard error for a log line, which is printed above the bar.
    #[must_use]
    pub fn beside(&self) -> impl Write + use<> {
        Beside(Arc::clone(&self.current))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = lock(&self.current).take() {
            bar.finish_and_clear();
        }
    }
}

fn lock(current: &Mutex<Option<ProgressBar>>) -> MutexGuard<'_, Option<ProgressBar>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn style() -> Option<ProgressStyle> {
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let left = state.eta().as_secs();
        let _ = write!(
            out,
            "{} left",
            worker::observe::humanize::span(chrono::TimeDelta::seconds(left as i64))
        );
    };
    let style = ProgressStyle::with_template(TEMPLATE).ok()?;
    Some(style.progress_chars("#>-").with_key("rate", rate).with_key("left", left))
}

/// The writer for the log.
struct Beside(Arc<Mutex<Option<ProgressBar>>>);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*lock(&self.0) {
            None => io::stderr().write(bytes),
            // The log writes whole lines, so the bar never overwrites part of one.
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
