//! Progress bars, on standard error and only where that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use worker::audit::progress::{Progress, Step};

/// How often a bar is drawn while nothing is told.
const TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{msg} [{bar:40}] {human_pos}/{human_len} {prefix}, {rate}, {left}";

/// Whether there are bars, and the one that is drawn just now.
#[derive(Debug, Clone)]
pub struct Bars {
    are_shown: bool,
    current: Arc<Mutex<Option<ProgressBar>>>,
}

/// A bar, which is taken away in the end.
#[derive(Debug)]
pub(crate) struct Bar {
    /// What it shows.
    pub(crate) progress: Progress,
    current: Arc<Mutex<Option<ProgressBar>>>,
}

impl Bars {
    /// Those of standard error; none where it is no terminal.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self { are_shown: io::stderr().is_terminal(), current: Arc::default() }
    }

    /// Begins a bar, in the place of the one before: "`doing` [###---] 12/34 `units`, …".
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
                // Before there is something to show, nothing is drawn.
                bar.enable_steady_tick(TICK);
            }
            Step::Done(amount) => bar.inc(amount),
        });
        Bar { progress, current }
    }

    /// Standard error for a line of the log, which takes the place of the bar; that goes on below.
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

/// What the log writes to.
struct Beside(Arc<Mutex<Option<ProgressBar>>>);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*lock(&self.0) {
            None => io::stderr().write(bytes),
            // A line comes whole, so nothing of it stands where the bar is drawn.
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
