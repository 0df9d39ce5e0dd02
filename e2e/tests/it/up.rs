//! `ackline up`: the embedded default, as somebody without a checkout uses it.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use e2e::process::{Process, Program};
use e2e::tools;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::expect::SOON;

/// `ackline up` on free ports, with its data in `dir/data`.
fn up(dir: &Path) -> Program {
    up_with(dir, &[])
}

/// The same, but for these flags.
fn up_with(dir: &Path, flags: &[(&str, &str)]) -> Program {
    let any = "127.0.0.1:0";
    let mut all = HashMap::from([
        ("--data", "data"),
        ("--nats-port", "0"),
        ("--listen", any),
        ("--ingress-ops-listen", any),
        ("--worker-ops-listen", any),
    ]);
    all.extend(flags.iter().copied());
    let program = Program::new("ackline", tools::binary("ackline").unwrap(), dir).args(["up"]);
    let program = program.args(all.iter().flat_map(|(flag, value)| [flag, value]));
    program.env("NATS_SERVER", tools::nats_server().unwrap())
}

/// Starts it; returns the commands that it prints for the next steps.
async fn start(dir: &Path) -> (Process, Vec<String>) {
    start_program(up(dir)).await
}

async fn start_program(program: Program) -> (Process, Vec<String>) {
    let process = program.start().unwrap();
    process.wait_for_line(|line| line.contains("curl -d"), SOON).await.unwrap();
    let out = process.log().stdout();
    let (_, next) = out.split_once("In another terminal:").unwrap();
    let commands = next.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned);
    (process, commands.collect())
}

/// Runs commands in a shell, which must succeed; returns what they print.
async fn shell(dir: &Path, commands: &[String]) -> String {
    let script = format!("set -e\n{}", commands.join("\n"));
    let mut process = Program::new("sh", "/bin/sh", dir).args(["-c", &script]).start().unwrap();
    let status = process.wait(SOON).await.unwrap();
    assert!(status.success(), "{script}\n{}", process.log().text());
    process.log().stdout()
}

/// The nats-servers whose data are in this folder.
fn servers(dir: &Path) -> Vec<Pid> {
    let config = dir.join("data/nats.conf").display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_one = |process: &fs::DirEntry| {
        let command = fs::read_to_string(process.path().join("cmdline"));
        command.is_ok_and(|command| command.contains(&config))
    };
    let pid = |process: fs::DirEntry| process.file_name().to_str()?.parse().ok();
    processes.filter(is_one).filter_map(pid).filter_map(Pid::from_raw).collect()
}

async fn statuses(dir: &Path, commands: &[String]) -> Vec<(String, String)> {
    let exports = commands.iter().filter(|command| command.starts_with("export"));
    let send = commands.iter().find(|command| command.contains(" send ")).unwrap();
    let list = send.split_once(" send ").unwrap().0.to_owned() + " jobs list --json";
    let listed = shell(dir, &exports.cloned().chain([list]).collect::<Vec<_>>()).await;
    let jobs: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let text = |job: &Value, column: &str| job[column].as_str().unwrap().to_owned();
    jobs.iter().map(|job| (text(job, "id"), text(job, "status"))).collect()
}

#[tokio::test]
async fn one_command_runs_everything_and_finds_its_data_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (mut process, mut commands) = start(&dir).await;
    // What is printed can be typed; what watches goes last, and ends because the job has.
    commands.sort_by_key(|command| command.contains(" watch "));
    let printed = shell(&dir, &commands).await;
    assert!(printed.contains("{\"received\":true}") && printed.contains("running"), "{printed}");
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/secrets")), (0o700, 0o600));
    let secrets = fs::read_to_string(dir.join("data/secrets")).unwrap();
    let secret = secrets.trim().strip_prefix("local:").unwrap();
    assert!(!process.log().text().contains(secret), "a secret was printed");

    // A second one must not write into the same folder.
    let mut second = up(&dir).start().unwrap();
    assert_eq!(second.wait(SOON).await.unwrap().code(), Some(1));
    let said = second.log().text();
    let owner = format!("another `ackline up` (process {})", process.pid());
    assert!(said.contains(&owner) && said.contains("--data"), "{said}");

    assert_eq!(servers(&dir).len(), 1);
    assert!(process.terminate(SOON).await.unwrap().success(), "{}", process.log().text());
    assert_eq!(servers(&dir), []);

    // Killed, it takes its server along, and loses nothing.
    let known = [("job-1".to_owned(), "running".to_owned())];
    let (mut process, commands) = start(&dir).await;
    assert_eq!(statuses(&dir, &commands).await, known);
    process.kill9();
    let (mut process, commands) = start(&dir).await;
    assert_eq!(servers(&dir).len(), 1);
    assert_eq!(statuses(&dir, &commands).await, known);
    assert!(process.interrupt(SOON).await.unwrap().success(), "{}", process.log().text());
    assert_eq!(servers(&dir), []);
}

#[tokio::test]
async fn a_part_that_ends_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    // What ends cannot say so to a broker that is gone, and need not wait for that.
    let (mut process, _) = start_program(up(&dir).env("SHUTDOWN_GRACE", "1s")).await;
    rustix::process::kill_process(servers(&dir)[0], Signal::KILL).unwrap();
    assert_eq!(process.wait(SOON).await.unwrap().code(), Some(1));
    let said = process.log().text();
    assert!(said.contains("nats-server has ended (signal: 9"), "{said}");
}

#[tokio::test]
async fn what_is_in_the_way_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    fs::write(dir.path().join("file"), "").unwrap();
    let dir = dir.path();
    for (program, expected) in [
        (up(dir).env("PATH", "").without_env("NATS_SERVER"), &["--nats-server", "get it"][..]),
        (up(dir).env("NATS_SERVER", "file"), &["--nats-server (NATS_SERVER): file is not"]),
        (up_with(dir, &[("--data", "file/data")]), &["--data: the folder file/data can't"]),
        (up_with(dir, &[("--nats-port", "x")]), &["--nats-port: "]),
        (
            up_with(dir, &[("--nats-port", &port), ("--listen", &address)]),
            &["--nats-port: ", "--listen: ", "in use"],
        ),
        (up(dir).env("LEASE", "soon").env("SCHEMES", "x"), &["--schemes"]),
    ] {
        let mut process = program.start().unwrap();
        let status = process.wait(SOON).await.unwrap();
        let said = process.log().text();
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {said}");
        for part in expected {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert_eq!(servers(dir), [], "{said}");
    }
}
