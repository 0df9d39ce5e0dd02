//! Workflows that were written by hand, before there was an action.

use e2e::act::{Act, Inputs};
use e2e::stack::{Db, Stack};
use serde_json::json;
use worker::entity::job::{Failure, Status};
use worker::entity::job_event::{Effect, Kind};

use super::*;

/// What such a workflow looks like: plain curl, no event ids, no times, one background loop.
const HAND_WRITTEN: &str = include_str!("hand-written.yml");
const ITS_SECRET: &str = "never-log-the-older-secret-77d0";

on_each_database!(the_older_sender_form_works);

/// Plain curl with `X-Signature`, as hand-written steps do it: no event id, no time, and only the
/// provisioning callback names the run.
async fn the_older_sender_form_works(db: Db) {
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
async fn the_older_workflow_works() {
    let stack = Stack::start(Db::Postgres).await.unwrap();
    let ingress =
        stack.start_ingress_with(&[("GITHUB_CALLBACK_SECRET", ITS_SECRET)], &[]).await.unwrap();
    let url = format!("http://{}{}", ingress.addr, e2e::stack::CALLBACK_PATH);
    let inputs = |id: &str, fail: Option<&str>| Inputs {
        workflow: Some(HAND_WRITTEN.to_owned()),
        fail: fail.map(Into::into),
        run_id: Some(17),
        ..Inputs::new(id, &url, ITS_SECRET)
    };
    let (healthy, failing) = (inputs("old-ok", None), inputs("old-fails", Some("no quota")));
    let (ok, failed) = tokio::join!(
        start(&stack, &healthy).finish(RUN_LIMIT),
        start(&stack, &failing).finish(RUN_LIMIT),
    );
    let (ok, failed) = (ok.unwrap(), failed.unwrap());
    assert!(ok.success, "{}", ok.output);
    assert!(!failed.success, "{}", failed.output);

    let database = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &database, "old-ok", Status::Running).await;
    assert!(job.heartbeat_count >= 1, "{job:?}");
    assert_eq!((job.workflow_run_id.as_deref(), job.run_attempt), (Some("17"), None));
    let job = wait_for_status(&stack, &database, "old-fails", Status::Failed).await;
    assert_eq!(
        (job.failure, job.error.as_deref()),
        (Some(Failure::Reported), Some("Provisioning failed"))
    );
    for (id, last) in [("old-ok", Kind::Running), ("old-fails", Kind::Failed)] {
        let events = timeline(&database, id).await;
        let kinds: Vec<_> = events.iter().map(|event| (event.kind, event.outcome)).collect();
        assert_eq!(kinds, [(Kind::Provisioning, Effect::Applied), (last, Effect::Applied)]);
        assert!(events.iter().all(|event| event.event_id.is_none()), "{events:?}");
    }
    // Its failure says what it said then: nothing that the sender could not.
    let again = Inputs { run_attempt: Some(2), ..inputs("old-fails", None) };
    let again = Act::run(stack.dir(), "act-again", &again, RUN_LIMIT).await.unwrap();
    assert!(again.success, "{}", again.output);
    wait_for_status(&stack, &database, "old-fails", Status::Running).await;
    assert_audited(&stack).await;
}
