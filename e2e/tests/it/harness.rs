//! The harness itself: nothing that it starts stays behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::process::Program;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_process_and_its_children_end_when_it_is_dropped() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let process = family(dir.path()).start()?;
    let pids = pids(&process.wait_for_line(|line| line.starts_with("pids "), SOON).await?);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _process = process;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    until_gone(&pids);
    Ok(())
}

#[test]
fn a_process_ends_when_its_owner_is_killed() -> Result<()> {
    // This test's program again, as an owner that can be killed.
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "harness::an_owner_that_waits_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(owner.stdout.take().expect("its output"));
    let line = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("pids ").map(|(_, pids)| format!("pids {pids}")));
    let pids = pids(&line.expect("the ids of its children"));
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    owner.kill()?;
    owner.wait()?;
    until_gone(&pids);
    Ok(())
}

#[tokio::test]
#[ignore = "the owner in the test above"]
async fn an_owner_that_waits_to_be_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let process = family(dir.path()).start()?;
    println!("{}", process.wait_for_line(|line| line.starts_with("pids "), SOON).await?);
    tokio::time::sleep(SOON).await;
    Ok(())
}

#[tokio::test]
async fn a_process_has_only_the_environment_it_was_given() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut process =
        Program::new("env", "/usr/bin/env", dir.path()).env("GIVEN", "this").start()?;
    assert!(process.wait(SOON).await?.success());
    let output = process.log().stdout();
    let mut names: Vec<&str> =
        output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["GIVEN", "HOME", "PATH", "TMPDIR"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("logs/env.log"))?, output);
    Ok(())
}

/// A shell and a child of it that does not listen to SIGTERM.
fn family(dir: &Path) -> Program {
    shell(dir, "trap '' TERM; sleep 600 & echo \"pids $$ $!\"; wait")
}

fn shell(dir: &Path, script: &str) -> Program {
    Program::new("sh", "/bin/sh", dir).args(["-c", script])
}

fn pids(line: &str) -> Vec<u32> {
    let pids: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(pids.len(), 2, "{line}");
    pids
}

/// Whether there is such a process; one that only waits to be reaped does not count.
fn is_alive(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        return stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
    }
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn until_gone(pids: &[u32]) {
    let deadline = Instant::now() + SOON;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?} are still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
