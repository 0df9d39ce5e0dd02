//! Real workflow runs, by act, through the real binaries to the rows; and the action's script, as
//! a step of a workflow runs it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::act::{Act, Inputs};
use e2e::process::{Process, Program};
use e2e::stack::Stack;
use e2e::tools;
use sea_orm::DatabaseConnection;
use worker::entity::job_event::{Effect, Kind, Model as JobEvent};

use crate::expect::*;

mod credentials;
mod environments;
mod heartbeats;
mod inputs;
mod older;
mod outage;
mod runs;
mod tries;

pub(crate) const RUN_LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn timeline(db: &DatabaseConnection, id: &str) -> Vec<JobEvent> {
    events(db).await.into_iter().filter(|event| event.job_id == id).collect()
}

/// What took effect, in order. What was ignored must be the repetition of an event whose answer was
/// lost: it has the same id.
async fn applied(db: &DatabaseConnection, id: &str) -> Vec<Kind> {
    let mut seen = BTreeSet::new();
    let mut kinds = Vec::new();
    for event in timeline(db, id).await {
        let event_id = event.event_id.clone().expect("the action gives each callback an id");
        if event.outcome == Effect::Applied {
            assert!(seen.insert(event_id), "{event:?}");
            kinds.push(event.kind);
        } else {
            assert_eq!(event.reason.as_deref(), Some("duplicate"), "{event:?}");
            assert!(seen.contains(&event_id), "{event:?}");
        }
    }
    kinds
}

/// The inputs of a run that reports to this stack.
pub(crate) fn inputs_of(stack: &Stack, id: &str) -> Inputs {
    Inputs::new(id, &stack.callback_url(), stack.secret())
}

/// Starts a run in the stack's directory; its name is that of its job.
fn start(stack: &Stack, inputs: &Inputs) -> Act {
    Act::start(stack.dir(), &format!("act-{}", inputs.job_id), inputs).unwrap()
}

/// Waits for the end of a run, which must be a success.
pub(crate) async fn succeeds(run: Act) {
    let outcome = run.finish(RUN_LIMIT).await.unwrap();
    assert!(outcome.success, "{}", outcome.output);
}

/// Waits until a run has written a line.
async fn wait_for_line(run: &Act, text: &str) {
    let written = run.process.wait_for_line(|line| line.contains(text), RUN_LIMIT).await;
    written.unwrap_or_else(|error| panic!("{text:?}: {error:#}"));
}

/// The workflow with a placeholder that goes on once this file is there, so that nothing depends on
/// how long it takes.
pub(crate) fn held(go_on: &Path) -> String {
    let workflow = e2e::act::workflow().unwrap();
    let wait = format!("until [ -e '{}' ]; do sleep 0.1; done", go_on.display());
    let held = workflow.replace("sleep \"$PROVISION_SECONDS\"", &wait);
    assert_ne!(workflow, held);
    held
}

pub(crate) async fn wait_for_heartbeats(
    stack: &Stack,
    db: &DatabaseConnection,
    id: &str,
    count: i64,
) {
    stack
        .wait_until(&format!("{count} heartbeats of {id} arrive"), RUN_LIMIT, async || {
            job(db, id).await.is_some_and(|job| i64::from(job.heartbeat_count) >= count)
        })
        .await;
}

/// The processes whose command line contains all of these texts.
fn processes(texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = command_line(&entry.path());
        if texts.iter().all(|text| line.contains(text)) {
            found.push(line);
        }
    }
    found
}

/// The command line of a process, by its folder in /proc; empty if it has ended.
fn command_line(process: &Path) -> String {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// The processes that send heartbeats for a run.
fn senders(stack: &Stack, run: &str) -> Vec<String> {
    let home = stack.dir().join(run).display().to_string();
    processes(&["callback.sh", &home])
}

/// The action's script, as the step of a workflow runs it, with these inputs and variables.
fn step(stack: &Stack, name: &str, env: &[(&str, &str)]) -> Process {
    let program = Program::new(name, "/bin/bash", stack.dir())
        .args([action().join("callback.sh")])
        // The runner is this test.
        .args([std::process::id().to_string()])
        .envs(variables(stack))
        .envs(env.iter().copied());
    stack.spawn(&program).unwrap()
}

fn action() -> PathBuf {
    tools::workspace().join(".github/actions/callback")
}

/// A copy of the action whose scripts have the second of each of these texts in place of the first.
fn changed_action(stack: &Stack, changes: &[(&str, &str)]) -> PathBuf {
    let copy = stack.dir().join("action");
    std::fs::create_dir_all(&copy).unwrap();
    let mut unfound: BTreeSet<_> = changes.iter().map(|(text, _)| *text).collect();
    for entry in std::fs::read_dir(action()).unwrap() {
        let path = entry.unwrap().path();
        let mut script = std::fs::read_to_string(&path).unwrap();
        for (text, other) in changes {
            if script.contains(text) {
                unfound.remove(text);
                script = script.replace(text, other);
            }
        }
        std::fs::write(copy.join(path.file_name().unwrap()), script).unwrap();
    }
    assert_eq!(unfound, BTreeSet::new());
    copy
}

/// The variables of a step that reports to this stack.
fn variables(stack: &Stack) -> Vec<(String, String)> {
    let temp = stack.dir().join("runner-temp");
    std::fs::create_dir_all(&temp).unwrap();
    let inputs = [
        ("MODE", "status"),
        ("JOB_ID", "job"),
        ("CALLBACK_URL", &stack.callback_url()),
        ("SECRET", stack.secret()),
        ("DEADLINE", "240"),
        ("STATUS", ""),
        ("AGENT_ID", ""),
        ("REGION", ""),
        ("OUTCOMES", ""),
        ("JOB_STATUS", ""),
        ("ERROR", ""),
        ("ERROR_FOLDER", ""),
        ("HEARTBEAT_INTERVAL", "1"),
        ("HEARTBEAT_TIMEOUT", ""),
        ("HEARTBEAT_LIFETIME", "60"),
    ];
    let inputs = inputs.map(|(input, value)| (format!("ACKLINE_{input}"), value.to_owned()));
    let temp = ("RUNNER_TEMP".to_owned(), temp.display().to_string());
    inputs.into_iter().chain([temp]).collect()
}

/// Ends the heartbeats that a failed test leaves, which live for hours.
struct EndOfHeartbeats<'a>(&'a Stack);

impl Drop for EndOfHeartbeats<'_> {
    fn drop(&mut self) {
        for state in std::fs::read_dir(self.0.dir().join("runner-temp")).into_iter().flatten() {
            // Without the file they end by themselves.
            let pid = state.map(|state| state.path().join("heartbeats.pid"));
            let _ = pid.and_then(std::fs::remove_file);
        }
    }
}

/// The command lines of all processes of this stack's steps that still run.
fn left_by_steps(stack: &Stack) -> Vec<String> {
    let temp = format!("RUNNER_TEMP={}", stack.dir().join("runner-temp").display());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_steps = entries.filter(|entry| {
        let variables = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        variables.split(|byte| *byte == 0).any(|variable| variable == temp.as_bytes())
    });
    of_steps.map(|entry| command_line(&entry.path())).filter(|line| !line.is_empty()).collect()
}

/// Runs it to its end: whether it succeeded, and what it wrote.
async fn finished(mut step: Process) -> (bool, String) {
    let status = step.wait(RUN_LIMIT).await.unwrap();
    (status.success(), step.log().text())
}

async fn step_succeeds(step: Process) -> String {
    let (success, output) = finished(step).await;
    assert!(success, "{output}");
    output
}

async fn step_fails(step: Process) -> String {
    let (success, output) = finished(step).await;
    assert!(!success, "{output}");
    output
}
