//! A real workflow run, by act, through the real binaries to the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::act::{Act, Inputs};
use e2e::stack::{Db, Stack};
use sea_orm::DatabaseConnection;
use serde_json::json;
use worker::entity::job::{Failure, Status};
use worker::entity::job_event::{Effect, Kind, Model as JobEvent};

use crate::expect::*;

const RUN_LIMIT: Duration = Duration::from_secs(120);
/// What the failing step says; it travels in a body, so no log of ours may hold it.
const REASON: &str = "no capacity left: body-marker-9c41";

/// Looks at every process's command line while a test runs.
struct ProcessListing {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl ProcessListing {
    fn watch(secret: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, secret) = (Arc::clone(&stop), secret.as_bytes().to_vec());
        let thread = std::thread::spawn(move || {
            let mut found = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    if line.windows(secret.len()).any(|window| window == secret) {
                        found.push(String::from_utf8_lossy(&line).replace('\0', " "));
                    }
                }
                std::thread::yield_now();
            }
            found
        });
        Self { stop, thread }
    }

    fn found(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Neither a secret, nor anything that could be a signature, nor a body; what act prints is the
/// workflow's log.
fn assert_discreet(stack: &Stack, act: &[&str]) {
    let logs = stack.all_logs();
    assert!(logs.contains("consuming"), "the worker's log was read");
    assert!(logs.contains("listening"), "ingress's log was read");
    assert!(!logs.contains(stack.secret()), "the secret is in a log");
    for output in act {
        assert!(output.contains("Report"), "the workflow's log was read");
        assert!(!output.contains(stack.secret()), "the secret is in the workflow's log");
        assert_eq!(hex_of_64(output), None, "a signature is in the workflow's log");
    }
    for marker in ["body-marker", "\"status\":\"provisioning\"", "\\\"status\\\":\\\"provisioning"]
    {
        assert!(!logs.contains(marker), "a body is in a log: {marker}");
    }
    // nats-server logs a digest of its own configuration.
    let ours = |line: &&str| !line.contains("Using configuration file");
    let signature = logs.lines().filter(ours).find_map(hex_of_64);
    assert_eq!(signature, None, "a signature is in a log");
}

fn hex_of_64(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).find(|run| run.len() == 64)
}

async fn timeline(db: &DatabaseConnection, id: &str) -> Vec<JobEvent> {
    events(db).await.into_iter().filter(|event| event.job_id == id).collect()
}

async fn runs_succeed_and_fail(db: Db) {
    // At the finest level, so that what is not logged there is logged nowhere.
    let stack = Stack::builder().db(db).env("RUST_LOG", "trace").start().await.unwrap();
    let listing = ProcessListing::watch(stack.secret());
    // A job id that would be code if anything took it for code.
    let (succeeds, fails) = ("ok-\"$(touch pwned)\"-ö'`", "fails-1");
    for id in [succeeds, fails] {
        let args = [
            "send",
            "--status",
            "queued",
            "--job-id",
            id,
            "--agent-id",
            "agent-1",
            "--region",
            "eu",
        ];
        stack.ingress_cli(&args).await.unwrap();
    }
    let inputs = |id: &str, fail: Option<&str>| Inputs {
        fail: fail.map(Into::into),
        run_id: Some(4242),
        run_attempt: Some(3),
        ..Inputs::new(id, &stack.callback_url(), stack.secret())
    };
    let (ok, failing) = (inputs(succeeds, None), inputs(fails, Some(REASON)));
    let (ok, failing) = tokio::join!(
        Act::run(stack.dir(), "act-ok", &ok, RUN_LIMIT),
        Act::run(stack.dir(), "act-fails", &failing, RUN_LIMIT),
    );
    let (ok, failing) = (ok.unwrap(), failing.unwrap());
    assert!(ok.success, "{}", ok.output);
    assert!(!failing.success, "{}", failing.output);
    assert_eq!(listing.found(), Vec::<String>::new(), "the secret was in a process listing");

    let database = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &database, succeeds, Status::Running).await;
    assert_eq!(job.workflow_run_id.as_deref(), Some("4242"));
    assert_eq!((job.run_attempt, job.run_count), (Some(3), 1));
    assert_eq!((job.agent_id.as_deref(), job.region.as_deref()), (Some("agent-1"), Some("eu")));
    assert!(job.heartbeat_count >= 1, "{job:?}");
    assert!(job.last_heartbeat_at.is_some() && job.queued_at.is_some());
    assert!(job.started_at.unwrap() <= job.finished_at.unwrap());
    assert_eq!((job.error, job.failed_step, job.failure), (None, None, None));
    let steps: Vec<_> = timeline(&database, succeeds)
        .await
        .into_iter()
        .map(|event| (event.kind, event.from_status, event.to_status, event.outcome))
        .collect();
    let applied = Effect::Applied;
    assert_eq!(
        steps,
        [
            (Kind::Queued, None, Some(Status::Queued), applied),
            (Kind::Provisioning, Some(Status::Queued), Some(Status::Provisioning), applied),
            (Kind::Running, Some(Status::Provisioning), Some(Status::Running), applied),
        ]
    );

    let job = wait_for_status(&stack, &database, fails, Status::Failed).await;
    assert_eq!(job.failure, Some(Failure::Reported));
    assert_eq!(job.failed_step.as_deref(), Some("provision"));
    assert!(job.error.as_deref().unwrap().contains(REASON), "{job:?}");
    let steps: Vec<_> = timeline(&database, fails).await;
    assert_eq!(
        steps.iter().map(|event| (event.kind, event.to_status)).collect::<Vec<_>>(),
        [
            (Kind::Queued, Some(Status::Queued)),
            (Kind::Provisioning, Some(Status::Provisioning)),
            (Kind::Failed, Some(Status::Failed)),
        ]
    );
    assert!(steps[1..].iter().all(|event| event.event_id.is_some()));
    assert_discreet(&stack, &[&ok.output, &failing.output]);

    // What people see.
    let shown = stack.worker_cli(&["jobs", "show", fails, "--json"]).await.unwrap();
    assert_eq!(shown["job"]["status"], "failed");
    assert_eq!(shown["job"]["failed_step"], "provision");
    assert_eq!(shown["events"].as_array().unwrap().len(), 3);
    let listed =
        stack.worker_cli(&["jobs", "list", "--status", "running", "--json"]).await.unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["id"], succeeds);
}

#[tokio::test]
async fn workflow_runs_become_rows_on_sqlite() {
    runs_succeed_and_fail(Db::Sqlite).await;
}

#[tokio::test]
async fn workflow_runs_become_rows_on_postgres() {
    runs_succeed_and_fail(Db::Postgres).await;
}

/// Plain curl with `X-Signature`, as hand-written steps do it: no event id, no time, and only the
/// provisioning callback names the run.
async fn the_older_form_works(db: Db) {
    let stack = Stack::start(db).await.unwrap();
    let send = async |body: serde_json::Value| {
        let body = body.to_string();
        let curl = tokio::process::Command::new("curl")
            .args(["-sf", "--noproxy", "*", "--retry", "5", "-X", "POST"])
            .args(["-H", "Content-Type: application/json"])
            .args(["-H", &format!("X-Signature: {}", stack.sign(body.as_bytes()))])
            .args(["-d", &body, &stack.callback_url()])
            .output()
            .await
            .unwrap();
        assert!(curl.status.success(), "{body}");
        assert_eq!(String::from_utf8_lossy(&curl.stdout), r#"{"received":true}"#);
    };
    let heartbeat = |id: &str| json!({ "job_id": id, "type": "heartbeat" });
    send(json!({ "job_id": "old-1", "status": "queued" })).await;
    send(json!({ "job_id": "old-1", "status": "provisioning", "workflow_run_id": "17" })).await;
    send(heartbeat("old-1")).await;
    send(heartbeat("old-1")).await;
    send(json!({ "job_id": "old-1", "status": "running" })).await;
    // The answer to the success got lost, so the workflow's failure step speaks next.
    send(json!({ "job_id": "old-1", "status": "failed", "error": "curl: (52)" })).await;
    // Another job fails and is run again.
    send(json!({ "job_id": "old-2", "status": "provisioning", "workflow_run_id": "18" })).await;
    send(json!({ "job_id": "old-2", "status": "failed", "error": "no quota" })).await;
    send(json!({ "job_id": "old-2", "status": "provisioning", "workflow_run_id": "18" })).await;
    send(json!({ "job_id": "old-2", "status": "running" })).await;

    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let healthy = job(&db, "old-1").await.unwrap();
    assert_eq!((healthy.status, healthy.heartbeat_count), (Status::Running, 2));
    assert_eq!((healthy.workflow_run_id.as_deref(), healthy.error), (Some("17"), None));
    let last = timeline(&db, "old-1").await.pop().unwrap();
    assert_eq!((last.kind, last.outcome), (Kind::Failed, Effect::Ignored));
    assert_eq!(last.reason.as_deref(), Some("finished"));
    assert_eq!(last.error.as_deref(), Some("curl: (52)"));
    let again = job(&db, "old-2").await.unwrap();
    assert_eq!((again.status, again.error, again.failure), (Status::Running, None, None));
    let reasons: Vec<_> =
        timeline(&db, "old-2").await.into_iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, ["re-run"]);
}

#[tokio::test]
async fn the_older_sender_form_works_on_sqlite() {
    the_older_form_works(Db::Sqlite).await;
}

#[tokio::test]
async fn the_older_sender_form_works_on_postgres() {
    the_older_form_works(Db::Postgres).await;
}

#[tokio::test]
async fn heartbeats_end_with_a_runner_that_is_killed() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let inputs = Inputs {
        provision_seconds: 60,
        ..Inputs::new("killed", &stack.callback_url(), stack.secret())
    };
    let mut act = Act::start(stack.dir(), "act-killed", &inputs).unwrap();
    let db = stack.db().await.unwrap();
    stack
        .wait_until("heartbeats arrive", RUN_LIMIT, async || {
            job(&db, "killed").await.is_some_and(|job| job.heartbeat_count >= 2)
        })
        .await;
    act.process.kill9();
    let home = stack.dir().join("act-killed");
    let is_alive = || {
        std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("heartbeats") && line.contains(&*home.to_string_lossy())
        })
    };
    stack.wait_until("the heartbeat loop ends", SOON, async || !is_alive()).await;
    wait_until_applied(&stack, &db).await;
    assert_eq!(job(&db, "killed").await.unwrap().status, Status::Provisioning);
}
