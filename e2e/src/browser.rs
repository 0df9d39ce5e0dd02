//! Runs tests of pages in a real browser: modules in `e2e/browser`, which say there what they see.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Process, Program};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(60);
/// Above the patience of a script with what it waits for.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

/// Headless, in a profile of its own, and without a word to anybody but the pages' servers on this
/// machine. Its sandbox needs a user other than root, and rights that containers do not give; the
/// pages are our own.
const FLAGS: [&str; 20] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
];

/// A running browser. Dropping it ends it, and what runs in it.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    devtools: String,
    home: PathBuf,
}

impl Browser {
    /// Starts a browser. Everything that it and its scripts write is in a new folder in `dir`: their
    /// logs, the profile, and a picture of each page that a failed script leaves.
    pub async fn start(dir: &Path) -> Result<Self> {
        // Short, because the browser makes sockets in it, whose paths have a limit.
        let home = tempfile::Builder::new().prefix("browser-").tempdir_in(dir)?.keep();
        let process = Program::new("chromium", tools::chromium()?, &home)
            .args(FLAGS)
            .args([format!("--user-data-dir={}", home.join("profile").display())])
            .args(["about:blank"])
            .start()?;
        const LISTENS: &str = "DevTools listening on ";
        let line = process.wait_for_line(|line| line.starts_with(LISTENS), START_LIMIT).await?;
        let devtools = line.replace(LISTENS, "");
        Ok(Self { process, devtools, home })
    }

    /// Runs `e2e/browser/SCRIPT`, and returns its result. The script gets the parameters, which may
    /// be secret. Its pages share nothing with those of other scripts, and are closed at its end.
    pub async fn run(&self, script: &str, parameters: &Value) -> Result<Value> {
        let path = tools::workspace().join("e2e/browser").join(script);
        ensure!(path.is_file(), "{} is missing", path.display());
        let mut process = Program::new("script", tools::node()?, &self.home)
            .env("BROWSER_MODULES", tools::browser_modules()?)
            .env("DEVTOOLS", &self.devtools)
            .env("PARAMETERS", parameters.to_string())
            .args([&path])
            .start()?;
        let failed = || {
            let is_running = self.process.is_running();
            let end = if is_running { String::new() } else { self.process.log().tail(20) };
            format!("{script} failed, and left what it saw in {}\n{end}", self.home.display())
        };
        let status = process.wait(SCRIPT_LIMIT).await.with_context(failed)?;
        ensure!(status.success(), "{}{}", failed(), process.log().tail(40));
        let output = process.log().stdout();
        let result = output.lines().last().with_context(|| format!("{script} has no result"))?;
        serde_json::from_str(result)
            .with_context(|| format!("{script} printed no result: {result}"))
    }
}

/// Runs a script in a browser of its own: see [`Browser::run`].
pub async fn run(dir: &Path, script: &str, parameters: &Value) -> Result<Value> {
    Browser::start(dir).await?.run(script, parameters).await
}
