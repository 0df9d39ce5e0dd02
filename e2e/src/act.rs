//! Runs the provisioning workflow for real, on this machine, with act.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, Program};
use crate::tools;

const WORKFLOW: &str = ".github/workflows/provision-agent.yml";

/// The text of the repository's workflow.
pub fn workflow() -> Result<String> {
    fs::read_to_string(tools::workspace().join(WORKFLOW))
        .with_context(|| format!("can't read {WORKFLOW}"))
}

/// What the workflow is started with.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The input `job_id`.
    pub job_id: String,
    /// The input `agent_id`.
    pub agent_id: String,
    /// The input `region`.
    pub region: String,
    /// The input `callback_url`.
    pub callback_url: String,
    /// The secret `CALLBACK_SECRET`; when empty, it is not set.
    pub secret: String,
    /// The variable `PROVISION_FAIL`: the step that provisions fails with this text.
    pub fail: Option<String>,
    /// The variable `HEARTBEAT_INTERVAL`, in seconds.
    pub heartbeat_interval_s: u32,
    /// The variable `PROVISION_SECONDS`.
    pub provision_seconds: u32,
    /// The run's id; act's own is 1.
    pub run_id: Option<u64>,
    /// The run's attempt; act's own is 1.
    pub run_attempt: Option<u32>,
    /// More repository variables of the workflow.
    pub vars: Vec<(String, String)>,
    /// The workflow, where it is not that of the repository.
    pub workflow: Option<String>,
    /// The programs that its steps find, where they are not this machine's.
    pub path: Option<PathBuf>,
}

impl Inputs {
    /// A run of a few seconds, which succeeds.
    pub fn new(job_id: &str, callback_url: &str, secret: &str) -> Self {
        Self {
            job_id: job_id.to_owned(),
            agent_id: "agent-1".to_owned(),
            region: "eu-central-1".to_owned(),
            callback_url: callback_url.to_owned(),
            secret: secret.to_owned(),
            fail: None,
            heartbeat_interval_s: 1,
            provision_seconds: 2,
            run_id: None,
            run_attempt: None,
            vars: Vec::new(),
            workflow: None,
            path: None,
        }
    }
}

/// A run of the workflow.
#[derive(Debug)]
pub struct Act {
    /// act's process, which is the runner.
    pub process: Process,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the workflow succeeded.
    pub success: bool,
    /// What act printed.
    pub output: String,
}

impl Act {
    /// Starts a run in `dir/NAME`, with a copy of the repository's `.github` and a home of its
    /// own; its output goes to `dir/logs/NAME.log`.
    pub fn start(dir: &Path, name: &str, inputs: &Inputs) -> Result<Self> {
        let home = dir.join(name);
        let repository = home.join("repository");
        copy_workflow(&repository, inputs.workflow.as_deref())?;
        // Without this file act asks on the terminal which image it should use.
        let config = home.join("config/act");
        fs::create_dir_all(&config)?;
        fs::write(config.join("actrc"), "")?;

        let seconds = inputs.heartbeat_interval_s.to_string();
        let provision_seconds = inputs.provision_seconds.to_string();
        let mut options = vec![
            ("--input", format!("job_id={}", inputs.job_id)),
            ("--input", format!("agent_id={}", inputs.agent_id)),
            ("--input", format!("region={}", inputs.region)),
            ("--input", format!("callback_url={}", inputs.callback_url)),
            ("--var", format!("HEARTBEAT_INTERVAL={seconds}")),
            ("--var", format!("PROVISION_SECONDS={provision_seconds}")),
        ];
        options.extend(inputs.fail.iter().map(|text| ("--var", format!("PROVISION_FAIL={text}"))));
        options
            .extend(inputs.vars.iter().map(|(name, value)| ("--var", format!("{name}={value}"))));
        options.extend(inputs.run_id.map(|id| ("--env", format!("GITHUB_RUN_ID={id}"))));
        options.extend(
            inputs.run_attempt.map(|attempt| ("--env", format!("GITHUB_RUN_ATTEMPT={attempt}"))),
        );

        if !inputs.secret.is_empty() {
            // A secret without a value is read from the environment.
            options.push(("-s", "CALLBACK_SECRET".to_owned()));
        }

        let process = Program::new(name, tools::act()?, &home)
            .logs_in(&dir.join("logs"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("CALLBACK_SECRET", &inputs.secret)
            .envs(inputs.path.iter().map(|path| ("PATH", path)))
            .args(["workflow_dispatch", "-W", WORKFLOW])
            // What the documents' example uses is this repository.
            .args(["--local-repository".into(), documented_action(&repository)])
            .args(["-P", "ubuntu-latest=-self-hosted", "-C"])
            .args([&repository])
            .args(options.iter().flat_map(|(option, value)| [*option, value]))
            .start()?;
        Ok(Self { process })
    }

    /// Waits for the end of the run.
    pub async fn finish(mut self, timeout: Duration) -> Result<Outcome> {
        let status = self.process.wait(timeout).await?;
        Ok(Outcome { success: status.success(), output: self.process.log().text() })
    }

    /// Starts a run and waits for its end.
    pub async fn run(
        dir: &Path,
        name: &str,
        inputs: &Inputs,
        timeout: Duration,
    ) -> Result<Outcome> {
        Self::start(dir, name, inputs)?.finish(timeout).await
    }
}

/// Puts this repository in the place of the one that docs/WORKFLOW.md names.
fn documented_action(repository: &Path) -> OsString {
    let mut option = OsString::from("OWNER/ackline@FULL_COMMIT_HASH=");
    option.push(repository);
    option
}

/// Copies the workflow into a repository of its own: act looks for one, and must not find this.
fn copy_workflow(repository: &Path, workflow: Option<&str>) -> Result<()> {
    tools::copy_folder(&tools::workspace().join(".github"), repository)?;
    let workflow = workflow.map_or_else(self::workflow, |text| Ok(text.to_owned()))?;
    // act refuses this property, which GitHub has since May 2026.
    let workflow = workflow.replace("\n  queue: max\n", "\n");
    fs::write(repository.join(WORKFLOW), workflow).context("can't write the workflow")?;
    let commands: [&[&str]; 3] = [
        &["init", "--quiet", "--initial-branch=main"],
        &["add", "--all"],
        &["-c", "commit.gpgSign=false", "commit", "--quiet", "--message=A copy for act"],
    ];
    for args in commands {
        let result = Command::new("git")
            .args(args)
            .current_dir(repository)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([("HOME", repository), ("GIT_CONFIG_GLOBAL", Path::new("/dev/null"))])
            .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "e2e")))
            .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "e2e@localhost")))
            .output();
        match result {
            Ok(output) => ensure!(
                output.status.success(),
                "git {} failed: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            ),
            // act only warns that there is no repository.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).context("can't run git"),
        }
    }
    Ok(())
}
