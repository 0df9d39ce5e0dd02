//! The action on other runners than ours: macOS's bash, BusyBox, no `setsid`, a container.
//!
//! Its steps run in the order of a workflow, each as the runner starts it, with no other programs
//! than those that the action may need.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use e2e::act::Inputs;
use e2e::port::Port;
use e2e::stack::{Db, Stack};
use rstest::rstest;
use worker::entity::job::Status;
use worker::entity::job_event::Kind;

use super::*;

/// What the action's scripts run, beside bash, and `tee`, which the workflow runs.
const PROGRAMS: [&str; 17] = [
    "cat", "curl", "date", "head", "mkdir", "mktemp", "mv", "nohup", "od", "openssl", "rm", "sed",
    "setsid", "sleep", "tail", "tee", "tr",
];
/// Those of them that BusyBox does not have.
const NOT_IN_BUSYBOX: [&str; 2] = ["curl", "openssl"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// GNU's programs, and bash 5.
    Linux,
    /// As on macOS: the bash that `BASH_3_2` names, no `setsid`, no `/proc`.
    Bash3_2,
    /// As on macOS, but with bash 5.
    NoSetsid,
    BusyBox,
    /// As with `docker exec`: the parent of each step is outside of its process ids, which is 0.
    Container,
}

/// A place in which steps run.
struct Runner<'a> {
    stack: &'a Stack,
    bash: PathBuf,
    path: PathBuf,
    action: PathBuf,
    container: Option<Process>,
    _end: EndOfHeartbeats<'a>,
}

impl<'a> Runner<'a> {
    /// Nothing if this machine has no such place, which is printed.
    async fn start(stack: &'a Stack, place: Place) -> Option<Self> {
        let bash = match (place, std::env::var_os("BASH_3_2").filter(|path| !path.is_empty())) {
            (Place::Bash3_2, None) => {
                not_run("BASH_3_2 names no bash 3.2");
                return None;
            }
            (Place::Bash3_2, Some(path)) => path.into(),
            _ => PathBuf::from("/bin/bash"),
        };
        let container = match place {
            Place::Container => Some(container(stack).await?),
            _ => None,
        };
        let path = programs(stack, place, &bash);
        let action = match place {
            // It is there, so the scripts must not find it.
            Place::Bash3_2 | Place::NoSetsid => changed_action(stack, &[("/proc/", "/no-proc/")]),
            _ => action(),
        };
        Some(Self { stack, bash, path, action, container, _end: EndOfHeartbeats(stack) })
    }

    fn step(&self, name: &str, env: &[(&str, &str)]) -> Process {
        // As action.yml does.
        let script = "bash \"$GITHUB_ACTION_PATH/callback.sh\" \"$PPID\"";
        let mut line: Vec<OsString> = vec![self.bash.clone().into(), "-ec".into(), script.into()];
        if let Some(container) = &self.container {
            let inside = first_child(container).unwrap().to_string();
            let enter = ["--target", &inside, "--pid", "--mount"].map(OsString::from);
            line.splice(0..0, std::iter::once(installed("nsenter").into()).chain(enter));
        }
        let program = Program::new(name, &line[0], self.stack.dir())
            .args(&line[1..])
            .env("GITHUB_ACTION_PATH", &self.action)
            .envs(variables(self.stack))
            .env("ACKLINE_HEARTBEAT_LIFETIME", "")
            .env("PATH", &self.path)
            .envs(env.iter().copied());
        self.stack.spawn(&program).unwrap()
    }

    async fn status(&self, status: &str, env: &[(&str, &str)]) -> (bool, String) {
        let env = [&[("ACKLINE_STATUS", status)], env].concat();
        finished(self.step(status, &env)).await
    }

    /// Reports the beginning, sends at least one heartbeat, and stops them.
    async fn begin(&self, db: &DatabaseConnection) {
        let (success, output) = self.status("provisioning", &[]).await;
        assert!(success, "{output}");
        let mode = |mode| [("ACKLINE_MODE", mode)];
        let start = step_succeeds(self.step("start", &mode("start-heartbeats"))).await;
        assert!(start.contains("Ackline: a heartbeat every 1 s has begun"), "{start}");
        let is_warned = start.contains(
            "::warning::Ackline: the runner's process cannot be seen from this container, so the \
             heartbeats end after 3600 s. Set \"heartbeat-lifetime\" slightly above timeout-minutes.\n",
        );
        assert_eq!(is_warned, self.container.is_some(), "{start}");
        wait_for_heartbeats(self.stack, db, "job", 1).await;
        assert_ne!(left_by_steps(self.stack), Vec::<String>::new());
        self.stop().await;
    }

    async fn stop(&self) -> String {
        let began = Instant::now();
        let output = step_succeeds(self.step("stop", &[("ACKLINE_MODE", "stop-heartbeats")])).await;
        // It waits for three seconds before it kills.
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(left_by_steps(self.stack), Vec::<String>::new(), "heartbeats were left");
        output
    }
}

/// A folder with the programs of a place, and no others.
fn programs(stack: &Stack, place: Place, bash: &Path) -> PathBuf {
    let folder = stack.dir().join("programs");
    std::fs::create_dir_all(&folder).unwrap();
    let link =
        |name: &str, path: &Path| std::os::unix::fs::symlink(path, folder.join(name)).unwrap();
    link("bash", bash);
    for name in PROGRAMS {
        if name == "setsid" && matches!(place, Place::Bash3_2 | Place::NoSetsid) {
            continue;
        }
        if place == Place::BusyBox && !NOT_IN_BUSYBOX.contains(&name) {
            // The installed one may be a script, to which the name that it is called by is lost.
            let busybox = tools::busybox().unwrap();
            let applet = format!("#!/bin/sh\nexec '{}' {name} \"$@\"\n", busybox.display());
            std::fs::write(folder.join(name), applet).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.join(name), mode).unwrap();
            continue;
        }
        link(name, &installed(name));
    }
    folder
}

#[expect(clippy::print_stderr, reason = "a test cannot end otherwise than with a result")]
fn not_run(why: &str) {
    eprintln!("not run: {why}");
}

fn installed(program: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap();
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(program));
    paths.find(|path| path.is_file()).unwrap_or_else(|| panic!("{program} is not installed"))
}

/// A process that has process ids of its own for itself and its children.
async fn container(stack: &Stack) -> Option<Process> {
    let unshare = Program::new("container", "unshare", stack.dir()).args([
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sleep",
        "600",
    ]);
    let unshare = stack.spawn(&unshare).unwrap();
    stack
        .wait_until("the container is there", SOON, async || {
            first_child(&unshare).is_some() || !unshare.is_running()
        })
        .await;
    if !unshare.is_running() {
        not_run("process ids of one's own need root's rights");
        return None;
    }
    Some(unshare)
}

fn first_child(process: &Process) -> Option<u32> {
    let pid = process.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The same by act, which has a terminal and ends what a step leaves in its session.
#[rstest]
#[ignore = "long: make test-workflow"]
#[tokio::test]
async fn a_run_by_act(
    #[values(Place::Bash3_2, Place::NoSetsid, Place::BusyBox)] place: Place,
    #[values(End::Success, End::Failure, End::Cancellation)] end: End,
) {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let Some(runner) = Runner::start(&stack, place).await else { return };
    let go_on = stack.dir().join("go-on");
    let inputs = Inputs {
        fail: matches!(end, End::Failure).then(|| "no quota".to_owned()),
        workflow: Some(held(&go_on)),
        path: Some(runner.path),
        ..inputs_of(&stack, "act")
    };
    let mut run = super::start(&stack, &inputs);
    let db = stack.db().await.unwrap();
    wait_for_line(&run, "Provisioning agent-1").await;
    let before = job(&db, "act").await.map_or(0, |job| i64::from(job.heartbeat_count));
    wait_for_heartbeats(&stack, &db, "act", before + 2).await;
    if matches!(end, End::Cancellation) {
        run.process.interrupt(RUN_LIMIT).await.unwrap();
    }
    std::fs::write(go_on, "").unwrap();
    let outcome = run.finish(RUN_LIMIT).await.unwrap();
    assert_eq!(outcome.success, matches!(end, End::Success), "{}", outcome.output);
    let (status, error) = match end {
        End::Success => (Status::Running, None),
        End::Failure => (Status::Failed, Some("Provisioning failed: no quota")),
        _ => (Status::Failed, Some("The workflow run was cancelled or ran out of time.")),
    };
    let job = wait_for_status(&stack, &db, "act", status).await;
    assert_eq!(job.error.as_deref(), error);
    assert_eq!(senders(&stack, "act-act"), Vec::<String>::new(), "heartbeats were left");
    assert_audited(&stack).await;
}

/// How a run ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Success,
    Failure,
    Cancellation,
    Refusal,
    Silence,
}

#[rstest]
#[case::succeeds(End::Success)]
#[case::fails(End::Failure)]
#[case::is_cancelled(End::Cancellation)]
#[case::is_refused(End::Refusal)]
#[case::reaches_nobody(End::Silence)]
#[tokio::test]
async fn a_run(
    #[case] end: End,
    #[values(Place::Linux, Place::Bash3_2, Place::NoSetsid, Place::BusyBox, Place::Container)]
    place: Place,
) {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let Some(runner) = Runner::start(&stack, place).await else { return };
    match end {
        End::Success => succeed(&runner).await,
        End::Failure => fail(&runner).await,
        End::Cancellation => be_cancelled(&runner).await,
        End::Refusal => be_refused(&runner).await,
        End::Silence => reach_nobody(&runner).await,
    }
}

async fn succeed(runner: &Runner<'_>) {
    let stack = runner.stack;
    let db = stack.db().await.unwrap();
    runner.begin(&db).await;
    let (success, output) = runner.status("running", &[]).await;
    assert!(success, "{output}");
    wait_for_status(stack, &db, "job", Status::Running).await;
    assert_eq!(applied(&db, "job").await, [Kind::Provisioning, Kind::Running]);
    assert_audited(stack).await;
}

async fn fail(runner: &Runner<'_>) {
    let stack = runner.stack;
    let db = stack.db().await.unwrap();
    runner.begin(&db).await;
    let folder = stack.dir().join("errors");
    std::fs::create_dir_all(&folder).unwrap();
    let mut reason = "ü".repeat(600).into_bytes();
    reason.extend(b" \"no\\quota\" \xff\0 at https://bot:hunter2@host/");
    std::fs::write(folder.join("build.err"), reason).unwrap();
    let (success, output) = runner
        .status(
            "failed",
            &[
                ("ACKLINE_OUTCOMES", "look=success build=failure"),
                ("ACKLINE_ERROR_FOLDER", folder.to_str().unwrap()),
            ],
        )
        .await;
    assert!(success, "{output}");
    let job = wait_for_status(stack, &db, "job", Status::Failed).await;
    assert_eq!(job.failed_step.as_deref(), Some("build"));
    let error = job.error.unwrap();
    let (characters, end) = error.split_once(' ').unwrap();
    assert_eq!(end, "\"no\\quota\" \u{fffd} at https://bot:[redacted]@host/");
    assert!(characters.chars().all(|character| character == 'ü'), "{error}");
    assert!((1000..=1030).contains(&error.len()), "{error}");
    assert_audited(stack).await;
}

async fn be_cancelled(runner: &Runner<'_>) {
    let stack = runner.stack;
    let db = stack.db().await.unwrap();
    runner.begin(&db).await;
    let cancelled = [("ACKLINE_OUTCOMES", "build=cancelled"), ("ACKLINE_JOB_STATUS", "cancelled")];
    let (success, output) = runner.status("failed", &cancelled).await;
    assert!(success, "{output}");
    let job = wait_for_status(stack, &db, "job", Status::Failed).await;
    assert_eq!(job.error.as_deref(), Some("The workflow run was cancelled or ran out of time."));
    assert_audited(stack).await;
}

async fn be_refused(runner: &Runner<'_>) {
    let stack = runner.stack;
    let secret = ("ACKLINE_SECRET", "not-the-secret-of-ingress");
    let (success, output) = runner.status("provisioning", &[secret]).await;
    assert!(!success, "{output}");
    let said = "::error::Ackline: the callback provisioning was not confirmed: the server answered \
                401: {\"error\":\"Invalid signature\"}\n";
    assert!(output.contains(said), "{output}");

    let start = [("ACKLINE_MODE", "start-heartbeats"), secret];
    step_succeeds(runner.step("start", &start)).await;
    let refused =
        async || series(stack.ingress.ops, "ackline_ingress_refused_total", &[]).await > 1.0;
    stack.wait_until("a heartbeat is refused", SOON, refused).await;
    runner.stop().await;
    let db = stack.db().await.unwrap();
    let (success, output) =
        runner.status("failed", &[("ACKLINE_OUTCOMES", "report=failure")]).await;
    assert!(success, "{output}");
    let job = wait_for_status(stack, &db, "job", Status::Failed).await;
    let error = "the callback provisioning was not confirmed: the server answered 401: \
                 {\"error\":\"Invalid signature\"}";
    assert_eq!(job.error.as_deref(), Some(error));
}

async fn reach_nobody(runner: &Runner<'_>) {
    let stack = runner.stack;
    let port = Port::lease().unwrap();
    let nobody = format!("http://{}/", port.address());
    let away = [("ACKLINE_CALLBACK_URL", &*nobody), ("ACKLINE_DEADLINE", "2")];
    let (success, output) = runner.status("provisioning", &away).await;
    assert!(!success, "{output}");
    let reason = format!(
        "the callback provisioning was not confirmed: gave up after 2 s: no \
         answer from the server: curl: (7) Failed to connect to 127.0.0.1 port {} ",
        port.number()
    );
    assert!(output.contains(&format!("::error::Ackline: {reason}")), "{output}");
    let start = [("ACKLINE_MODE", "start-heartbeats"), away[0]];
    step_succeeds(runner.step("start", &start)).await;
    runner.stop().await;

    let (success, output) =
        runner.status("failed", &[("ACKLINE_OUTCOMES", "report=failure")]).await;
    assert!(success, "{output}");
    let db = stack.db().await.unwrap();
    let job = wait_for_status(stack, &db, "job", Status::Failed).await;
    let error = job.error.unwrap();
    assert!(error.starts_with(&reason), "{error}");
}
