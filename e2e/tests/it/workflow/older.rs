//! Workflows that were written by hand, before there was an action.

use e2e::act::{Act, Inputs};
use e2e::stack::{Db, Stack};
use worker::entity::job::{Failure, Status};
use worker::entity::job_event::{Effect, Kind};

use super::*;

/// What such a workflow looks like: plain curl, no event ids, no times, one background loop.
const HAND_WRITTEN: &str = include_str!("hand-written.yml");
const ITS_SECRET: &str = "never-log-the-older-secret-77d0";

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
