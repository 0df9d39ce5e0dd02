//! A child process whose output is kept and which never outlives the process that started it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::terminal::Terminal;

const POLL: Duration = Duration::from_millis(10);
/// How long the rest of an ended process's output is waited for: a grandchild may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What to run, and where. Its environment is empty but for `PATH`, `HOME` and `TMPDIR`, so that
/// nothing depends on the machine; secrets belong in it, never among the arguments.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    logs: PathBuf,
    user: Option<(u32, u32)>,
    kept_lines: usize,
    has_terminal: bool,
}

impl Program {
    /// A program that runs in `dir`, which is its home too, and logs to `dir/logs/NAME.log`.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, dir: &Path) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.to_owned(),
            logs: dir.join("logs"),
            user: None,
            kept_lines: usize::MAX,
            has_terminal: false,
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable; the last one of a name counts.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets several variables.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        variables.into_iter().fold(self, |program, (name, value)| program.env(name, value))
    }

    /// Takes a variable away.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(set, _)| set != name.as_ref());
        self
    }

    /// Keeps the log file in another directory.
    pub fn logs_in(mut self, logs: &Path) -> Self {
        logs.clone_into(&mut self.logs);
        self
    }

    /// Runs as another user: a user id and a group id.
    pub fn user(mut self, user: Option<(u32, u32)>) -> Self {
        self.user = user;
        self
    }

    /// Bounds how many lines of output stay in memory, for processes that run for days.
    pub fn keep_lines(mut self, lines: usize) -> Self {
        self.kept_lines = lines;
        self
    }

    /// Gives it a terminal for its input and both of its outputs. What it writes there counts as
    /// its standard output.
    pub fn on_terminal(mut self) -> Self {
        self.has_terminal = true;
        self.env("TERM", "xterm-256color")
    }

    /// Starts it, in a process group of its own: a terminal's Ctrl-C reaches only the harness,
    /// which then ends its children in its own order.
    pub fn start(&self) -> Result<Process> {
        let failed = || format!("can't start {} ({})", self.name, self.path.display());
        std::fs::create_dir_all(&self.logs).with_context(failed)?;
        let file =
            File::create(self.logs.join(format!("{}.log", self.name))).with_context(failed)?;

        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let terminal = self.has_terminal.then(Terminal::open).transpose().with_context(failed)?;
        if let Some(terminal) = &terminal {
            let end = || terminal.inner.try_clone().map(Stdio::from).with_context(failed);
            command.stdin(end()?).stdout(end()?).stderr(end()?);
        }
        let mut child = command.spawn().with_context(failed)?;
        let outputs = (child.stdout.take(), child.stderr.take());
        let watchdog = watch(child.id());
        let log = Arc::new(Log::new(&self.name, self.kept_lines));
        let mut process = Process {
            program: self.clone(),
            log: Arc::clone(&log),
            earlier_logs: Vec::new(),
            child,
            watchdog: None,
            status: None,
        };
        // From here on the child ends with `process`, whatever fails.
        process.watchdog = Some(watchdog.with_context(failed)?);

        let file = Arc::new(file);
        if let Some(stdout) = outputs.0 {
            log.collect(Source::Stdout, stdout, Arc::clone(&file));
        }
        if let Some(stderr) = outputs.1 {
            log.collect(Source::Stderr, stderr, Arc::clone(&file));
        }
        if let Some(terminal) = terminal {
            log.collect(Source::Stdout, terminal.outer, file);
        }
        Ok(process)
    }
}

/// Starts the shell that kills the child's process group once this process is gone, even by
/// SIGKILL: the pipe that it reads from closes with us. It has a group of its own, so that what is
/// sent to ours does not end it first.
fn watch(pid: u32) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "read -r line; kill -9 \"-$1\"", "watchdog"])
        .arg(pid.to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// A running child, or one that has ended. Dropping it kills it and whatever is left in its
/// process group.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    watchdog: Option<Child>,
    log: Arc<Log>,
    earlier_logs: Vec<Arc<Log>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// The name that was given to it.
    pub fn name(&self) -> &str {
        &self.log.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written; outlives the process.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// What it has written since each of its starts.
    pub fn logs(&self) -> impl Iterator<Item = Arc<Log>> + '_ {
        self.earlier_logs.iter().chain([&self.log]).cloned()
    }

    /// Starts the program again; kills it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.end();
        let earlier = self.logs().collect();
        *self = self.program.start()?;
        self.earlier_logs = earlier;
        Ok(())
    }

    /// Waits until a line of its output fulfils the predicate, and returns that line.
    pub async fn wait_for_line(
        &self,
        predicate: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            // In this order: the last line may be the one.
            let is_over = self.log.is_complete() || Instant::now() >= deadline;
            if let Some(line) = self.log.find_line(&predicate) {
                return Ok(line);
            }
            let (name, tail) = (self.name(), || self.log.tail(20));
            ensure!(!is_over, "{name} did not write the line that was waited for\n{}", tail());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it still runs (or is stopped), as opposed to having ended.
    pub fn is_running(&self) -> bool {
        // Without reaping, so that its id can't be another's while the watchdog knows it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_none()
            && matches!(
                rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), options),
                Ok(None)
            )
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill9(&mut self) {
        self.end();
    }

    /// Freezes it (SIGSTOP), and returns when every thread of it stands still.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        // On a busy machine its threads go on for a while after the signal.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let wait = || rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        while self.status.is_none() && matches!(wait(), Err(rustix::io::Errno::INTR)) {}
    }

    /// Lets it go on (SIGCONT).
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to read its files again (SIGHUP).
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end (SIGTERM), and does not wait.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(timeout).await.context("after SIGTERM")
    }

    /// Sends SIGINT and waits for the end.
    pub async fn interrupt(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::INT);
        self.wait(timeout).await.context("after SIGINT")
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while self.is_running() {
            let (name, tail) = (self.name(), || self.log.tail(20));
            ensure!(Instant::now() < deadline, "{name} still runs after {timeout:?}\n{}", tail());
            tokio::time::sleep(POLL).await;
        }
        while !self.log.is_complete() && Instant::now() < deadline + LAST_WORDS {
            tokio::time::sleep(POLL).await;
        }
        Ok(self.end())
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // It may just have ended, which is no concern of the sender's.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
        }
    }

    fn end(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
        // Before it is reaped nothing else can have its id, so the group is surely its own.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        // Waiting for one's own child fails only if somebody else has reaped it.
        let status = self.child.wait().unwrap_or_default();
        *self.status.insert(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

/// The lines that a process has written so far.
#[derive(Debug)]
pub struct Log {
    name: String,
    lines: Mutex<Lines>,
    kept: usize,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<(Source, String)>,
    readers: usize,
}

impl Log {
    fn new(name: &str, kept: usize) -> Self {
        Self { name: name.to_owned(), lines: Mutex::default(), kept }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(
        self: &Arc<Self>,
        source: Source,
        output: impl Read + Send + 'static,
        file: Arc<File>,
    ) {
        self.lock().readers += 1;
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            loop {
                // A terminal ends with an error, and what came before it counts.
                let is_last = !matches!(output.read_until(b'\n', &mut line), Ok(1..));
                if line.is_empty() {
                    break;
                }
                // A full disk must not stop the process for want of a reader.
                let _ = (&*file).write_all(&line);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                let mut lines = log.lock();
                lines.lines.push_back((source, text));
                if lines.lines.len() > log.kept {
                    lines.lines.pop_front();
                }
                drop(lines);
                if is_last {
                    break;
                }
            }
            log.lock().readers -= 1;
        });
    }

    /// The first line that fulfils the predicate, if it was written already.
    pub fn find_line(&self, predicate: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.lock();
        lines.lines.iter().map(|(_, line)| line).find(|line| predicate(line)).cloned()
    }

    /// Whether nothing more can come.
    fn is_complete(&self) -> bool {
        self.lock().readers == 0
    }

    /// All lines of both outputs.
    pub fn text(&self) -> String {
        self.lock().join(|_| true)
    }

    /// The lines of standard output.
    pub fn stdout(&self) -> String {
        self.lock().join(|source| source == Source::Stdout)
    }

    /// The last lines, each with the process's name in front.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        let skipped = lines.lines.len().saturating_sub(count);
        lines
            .lines
            .iter()
            .skip(skipped)
            .map(|(_, line)| format!("[{}] {line}\n", self.name))
            .collect()
    }
}

impl Lines {
    fn join(&self, wanted: impl Fn(Source) -> bool) -> String {
        self.lines
            .iter()
            .filter(|(source, _)| wanted(*source))
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }
}
