//! How runs end: with success, with a failure, cancelled, and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::act::{Act, Inputs};
use e2e::stack::{Db, Stack};
use serde_json::Value;
use worker::entity::job::{Failure, Status};
use worker::entity::job_event::{Effect, Kind};

use super::*;

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
        let (stopped, secret) = (Arc::clone(&stop), secret.to_owned());
        let thread = std::thread::spawn(move || {
            let mut found = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                found.extend(processes(&[&secret]));
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

on_each_database!(workflow_runs_become_rows);

async fn workflow_runs_become_rows(db: Db) {
    // At the finest level, so that what is not logged there is logged nowhere.
    let stack = Stack::builder().db(db).env("RUST_LOG", "trace").start().await.unwrap();
    let listing = ProcessListing::watch(stack.secret());
    // A job id that would be code if anything took it for code.
    let (succeeds, fails) = ("ok-\"$(touch pwned)\"-ö'`", "fails-1");
    for id in [succeeds, fails] {
        let send = ["send", "--status=queued", "--agent-id=agent-1", "--region=eu", "--job-id", id];
        stack.ackline(&send).await.unwrap();
    }
    let inputs = |id: &str, fail: Option<&str>| Inputs {
        fail: fail.map(Into::into),
        run_id: Some(4242),
        run_attempt: Some(3),
        ..inputs_of(&stack, id)
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
    let shown = stack.ackline_json(&["jobs", "show", fails, "--json"]).await.unwrap();
    assert_eq!(shown["job"]["status"], "failed");
    assert_eq!(shown["job"]["failed_step"], "provision");
    assert_eq!(shown["events"].as_array().unwrap().len(), 3);
    let listed =
        stack.ackline_json(&["jobs", "list", "--status", "running", "--json"]).await.unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["id"], succeeds);
}

#[tokio::test]
async fn a_cancelled_run_is_reported_as_cancelled() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let inputs = Inputs { provision_seconds: 600, ..inputs_of(&stack, "cancelled") };
    let mut run = start(&stack, &inputs);
    let db = stack.db().await.unwrap();
    wait_for_line(&run, "Provisioning agent-1").await;
    run.process.interrupt(RUN_LIMIT).await.unwrap();

    let job = wait_for_status(&stack, &db, "cancelled", Status::Failed).await;
    assert_eq!(job.failure, Some(Failure::Reported));
    assert_eq!(job.failed_step.as_deref(), Some("provision"));
    let error = job.error.unwrap();
    assert!(error.starts_with("The workflow run was cancelled or ran out of time."), "{error}");
    assert_eq!(applied(&db, "cancelled").await, [Kind::Provisioning, Kind::Failed]);
    let left = senders(&stack, "act-cancelled");
    assert_eq!(left, Vec::<String>::new(), "heartbeats were left");
    assert_audited(&stack).await;
}

#[tokio::test]
async fn a_run_again_starts_afresh_and_its_predecessor_is_not_heard_any_more() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let attempt = |attempt, fail: Option<&str>| Inputs {
        run_id: Some(77),
        run_attempt: Some(attempt),
        fail: fail.map(Into::into),
        provision_seconds: 1,
        ..inputs_of(&stack, "again")
    };
    let first =
        Act::run(stack.dir(), "act-1", &attempt(1, Some("no quota")), RUN_LIMIT).await.unwrap();
    assert!(!first.success, "{}", first.output);
    let db = stack.db().await.unwrap();
    wait_for_status(&stack, &db, "again", Status::Failed).await;
    let second = Act::run(stack.dir(), "act-2", &attempt(2, None), RUN_LIMIT).await.unwrap();
    assert!(second.success, "{}", second.output);

    let job = wait_for_status(&stack, &db, "again", Status::Running).await;
    assert_eq!((job.run_attempt, job.run_count), (Some(2), 2));
    assert_eq!((job.error, job.failed_step, job.failure), (None, None, None));
    assert_eq!(
        applied(&db, "again").await,
        [Kind::Provisioning, Kind::Failed, Kind::Provisioning, Kind::Running]
    );
    // A message of the first attempt that was on its way all the time.
    let late = [
        ("ACKLINE_JOB_ID", "again"),
        ("ACKLINE_STATUS", "failed"),
        ("ACKLINE_ERROR", "late"),
        ("GITHUB_RUN_ID", "77"),
        ("GITHUB_RUN_ATTEMPT", "1"),
    ];
    step_succeeds(step(&stack, "late", &late)).await;
    wait_until_applied(&stack, &db).await;
    let last = timeline(&db, "again").await.pop().unwrap();
    assert_eq!((last.kind, last.outcome), (Kind::Failed, Effect::Ignored), "{last:?}");
    assert_eq!(crate::expect::job(&db, "again").await.unwrap().status, Status::Running);
    assert_audited(&stack).await;
}

/// The complete example of docs/WORKFLOW.md, with what a reader replaces in it.
fn documented_workflow(provision: &str) -> String {
    let path = e2e::tools::workspace().join("docs/WORKFLOW.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, yaml) = text.split_once("```yaml\n").unwrap();
    let (yaml, _) = yaml.split_once("```").unwrap();
    let yaml: String = yaml
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line)))
        .collect();
    yaml.replace("./provision.sh", provision)
}

#[tokio::test]
async fn the_documented_workflow_does_what_is_said_of_it() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let inputs = |id: &str, provision: &str| Inputs {
        workflow: Some(documented_workflow(provision)),
        ..inputs_of(&stack, id)
    };
    let (good, bad) = (inputs("good", "true"), inputs("bad", "ls /no/such/file"));
    let (good, bad) =
        tokio::join!(start(&stack, &good).finish(RUN_LIMIT), start(&stack, &bad).finish(RUN_LIMIT));
    let (good, bad) = (good.unwrap(), bad.unwrap());
    assert!(good.success, "{}", good.output);
    assert!(!bad.success, "{}", bad.output);
    let db = stack.db().await.unwrap();
    wait_for_status(&stack, &db, "good", Status::Running).await;
    let job = wait_for_status(&stack, &db, "bad", Status::Failed).await;
    assert_eq!(job.failed_step.as_deref(), Some("provision"));
    assert!(job.error.unwrap().contains("/no/such/file"));
    assert_audited(&stack).await;
}

/// GitHub cancels the run that waits when another is dispatched, and nobody hears of it.
#[test]
fn a_dispatch_does_not_replace_the_one_that_waits() {
    for (workflow, text) in [
        ("provision-agent.yml", e2e::act::workflow().unwrap()),
        ("docs/WORKFLOW.md", documented_workflow("true")),
    ] {
        let workflow_of: Value = serde_saphyr::from_str(&text).unwrap();
        let concurrency = &workflow_of["concurrency"];
        assert_eq!(concurrency["queue"], "max", "{workflow}");
        assert_eq!(concurrency["cancel-in-progress"], false, "{workflow}");
        let group = concurrency["group"].as_str().unwrap();
        assert!(group.ends_with("-${{ inputs.job_id }}"), "{workflow}: {group}");
    }
}
