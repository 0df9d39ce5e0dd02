//! The harness itself: its servers are real ones, and nothing that it starts stays behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::jetstream;
use e2e::load::Load;
use e2e::nats::Nats;
use e2e::postgres::Postgres;
use e2e::process::Program;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};

use crate::expect::on_each_database;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn nats_keeps_its_port_and_its_data_over_a_kill() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let mut nats = Nats::start(dir.path()).await?;
    println!("nats-server was ready after {:?}", started.elapsed());
    let url = nats.url();

    let context = jetstream::new(nats.client().await?);
    let config = jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        max_bytes: 64 * 1024 * 1024,
        ..Default::default()
    };
    context.create_stream(config).await?;
    context.publish("kept", "confirmed".into()).await?.await?;

    nats.process.kill9();
    assert!(async_nats::connect(&url).await.is_err());
    nats.restart().await?;
    assert_eq!(nats.url(), url);
    let stream = jetstream::new(nats.client().await?).get_stream("KEPT").await?;
    assert_eq!(stream.cached_info().state.messages, 1);

    nats.process.stop();
    let connecting = tokio::time::timeout(Duration::from_millis(300), nats.client()).await;
    assert!(!matches!(connecting, Ok(Ok(_))), "a frozen server answers");
    nats.process.cont();
    nats.client().await?;
    nats.stop_server().await?;
    assert!(!nats.process.is_running());
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_its_port_and_its_data_over_a_kill() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let mut postgres = Postgres::start(dir.path()).await?;
    println!("PostgreSQL was ready after {:?}", started.elapsed());

    assert_eq!(postgres.psql("SHOW fsync").await?, "on\n");
    postgres.psql("CREATE TABLE kept AS SELECT 42 AS answer").await?;
    let url = postgres.url();
    let started = Instant::now();
    postgres.restart().await?;
    println!("PostgreSQL was ready again after {:?}", started.elapsed());
    assert_eq!(postgres.url(), url);

    let database = Database::connect(&url).await?;
    let query = Statement::from_string(DbBackend::Postgres, "SELECT answer FROM kept");
    let row = database.query_one_raw(query).await?.expect("a row");
    assert_eq!(row.try_get::<i32>("", "answer")?, 42);
    // Connections that are still open do not keep it from ending.
    postgres.stop_server().await?;
    Ok(())
}

on_each_database!(a_stack_takes_a_load_and_shuts_down);

async fn a_stack_takes_a_load_and_shuts_down(db: Db) {
    let started = Instant::now();
    let mut stack = Stack::start(db).await.unwrap();
    println!("{db:?}: everything was ready after {:?}", started.elapsed());

    let report = Load::new(stack.ingress.addr, stack.secret(), 40).run().await.unwrap();
    println!("{db:?}: {:.0} callbacks/s", report.rate());
    assert_eq!((report.accepted(), report.retries), (400, 0));
    stack
        .wait_until("every job ends as its last callback says", SOON, async || {
            let jobs = stack.ackline_json(&["jobs", "list", "--json"]).await.unwrap();
            let status = |job_id: &str| {
                let jobs = jobs.as_array().into_iter().flatten();
                jobs.clone().find(|job| job["id"] == job_id)?["status"].as_str()
            };
            report.jobs.iter().all(|job| status(&job.job_id) == job.last_status())
        })
        .await;
    stack.db().await.unwrap().ping().await.unwrap();
    stack.shut_down().await.unwrap();
    assert!(stack.all_logs().contains("shutting down"));
}

#[tokio::test]
async fn a_load_goes_through_another_ingress_when_one_is_gone() -> Result<()> {
    let stack = Stack::start(Db::Sqlite).await?;
    let mut other = stack.start_ingress_with(&[], &[]).await?;
    other.process.kill9();
    let load = Load::new(stack.ingress.addr, stack.secret(), 40).also(other.addr);
    let report = load.run().await?;
    assert_eq!(report.accepted(), 400);
    assert!(report.retries > 0, "half of the senders begin with the one that is gone");
    Ok(())
}

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

#[tokio::test]
async fn a_paused_process_goes_on_and_can_be_terminated() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut process =
        shell(dir.path(), "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done")
            .start()?;
    process.wait_for_line(|line| line == "up", SOON).await?;
    process.stop();
    assert!(process.terminate(Duration::from_millis(200)).await.is_err(), "it was stopped");
    process.cont();
    assert_eq!(process.wait(SOON).await?.code(), Some(7));
    assert!(process.log().text().contains("bye"));
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
