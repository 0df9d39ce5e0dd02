//! What a run says when ingress can't hear it, or can't be heard.

use std::time::{Duration, Instant};

use e2e::act::Inputs;
use e2e::port::Port;
use e2e::proxy::{Flow, Proxy};
use e2e::stack::{CALLBACK_PATH, Stack};
use rstest::rstest;
use worker::entity::job::{Failure, Status};
use worker::entity::job_event::Kind;

use super::*;

/// Which callback finds nobody.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Provisioning,
    Running,
    Failed,
}

/// Ingress is away for at least this long, and at least until a callback has noticed.
#[rstest]
#[case::for_a_moment(Duration::ZERO)]
#[ignore = "long: make test-workflow"]
#[case::for_ten_seconds(Duration::from_secs(10))]
#[tokio::test]
async fn ingress_is_away(
    #[case] time: Duration,
    #[values(At::Provisioning, At::Running, At::Failed)] at: At,
) {
    let port = Port::lease().unwrap();
    let any = ([127, 0, 0, 1], 0).into();
    let mut stack = Stack::builder().ingress_listen(port.address(), any).start().await.unwrap();
    let go_on = stack.dir().join("go-on");
    let inputs = Inputs {
        fail: (at == At::Failed).then(|| "no quota".to_owned()),
        workflow: Some(held(&go_on)),
        ..inputs_of(&stack, "away")
    };
    let db = stack.db().await.unwrap();
    let run = if at == At::Provisioning {
        stack.ingress.process.kill9();
        start(&stack, &inputs)
    } else {
        let run = start(&stack, &inputs);
        wait_for_heartbeats(&stack, &db, "away", 1).await;
        stack.ingress.process.kill9();
        run
    };
    let gone = Instant::now();
    std::fs::write(go_on, "").unwrap();
    // Heartbeats say so when they are stopped, and say nothing about what follows them.
    let notices = async || {
        let lines = run.process.log().text();
        let report = match at {
            At::Provisioning => "Report provisioning",
            At::Running => "Report running",
            At::Failed => "Report failed",
        };
        let report = lines.split_once(&format!("Run Main {report}"))?.1;
        report.contains("trying again in").then_some(())
    };
    stack.wait_for("a callback is tried again", RUN_LIMIT, notices).await;
    let left = time.saturating_sub(gone.elapsed());
    tokio::time::sleep(left).await;
    stack.start_ingress().await.unwrap();

    let outcome = run.finish(RUN_LIMIT).await.unwrap();
    assert_eq!(outcome.success, at != At::Failed, "{}", outcome.output);
    if at == At::Failed {
        let job = wait_for_status(&stack, &db, "away", Status::Failed).await;
        assert_eq!(job.failed_step.as_deref(), Some("provision"));
        assert_eq!(job.error.as_deref(), Some("Provisioning failed: no quota"));
        assert_eq!(applied(&db, "away").await, [Kind::Provisioning, Kind::Failed]);
    } else {
        wait_for_status(&stack, &db, "away", Status::Running).await;
        assert_eq!(applied(&db, "away").await, [Kind::Provisioning, Kind::Running]);
    }
    assert_audited(&stack).await;
}

/// The broker is frozen: what ingress has handed to it may be stored later, or not.
#[tokio::test]
async fn a_callback_that_was_told_503_is_sent_again() {
    let stack = Stack::builder().env("PUBLISH_DEADLINE", "1s").start().await.unwrap();
    let inputs = inputs_of(&stack, "busy");
    stack.nats.pause();
    let run = start(&stack, &inputs);
    wait_for_line(&run, "the server answered 503").await;
    stack.nats.resume();
    succeeds(run).await;
    let db = stack.db().await.unwrap();
    wait_for_status(&stack, &db, "busy", Status::Running).await;
    assert_eq!(applied(&db, "busy").await, [Kind::Provisioning, Kind::Running]);
    assert_audited(&stack).await;
}

/// A run whose success is stored while its answer is on its way through the proxy.
async fn success_without_an_answer(deadline_s: &str) -> (Stack, Proxy, Act) {
    let stack = Stack::builder().start().await.unwrap();
    let proxy = Proxy::start(stack.ingress.addr).await.unwrap();
    let url = format!("http://{}{CALLBACK_PATH}", proxy.address());
    let go_on = stack.dir().join("go-on");
    let inputs = Inputs {
        vars: vec![("CALLBACK_DEADLINE".to_owned(), deadline_s.to_owned())],
        workflow: Some(held(&go_on)),
        ..Inputs::new("unanswered", &url, stack.secret())
    };
    let run = start(&stack, &inputs);
    let db = stack.db().await.unwrap();
    wait_for_heartbeats(&stack, &db, "unanswered", 1).await;
    proxy.to_client(Flow::Swallow);
    std::fs::write(go_on, "").unwrap();
    wait_for_status(&stack, &db, "unanswered", Status::Running).await;
    (stack, proxy, run)
}

#[tokio::test]
async fn a_success_whose_answer_is_cut_off_is_sent_again_and_known_already() {
    let (stack, proxy, run) = success_without_an_answer("60").await;
    proxy.to_client(Flow::Pass);
    proxy.cut();
    wait_for_line(&run, "trying again in").await;
    succeeds(run).await;
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(timeline(&db, "unanswered").await.len(), 3, "it was stored twice");
    assert_eq!(applied(&db, "unanswered").await, [Kind::Provisioning, Kind::Running]);
    assert_eq!(job(&db, "unanswered").await.unwrap().status, Status::Running);
    assert_audited(&stack).await;
}

#[tokio::test]
async fn a_success_that_is_never_answered_is_not_followed_by_a_failure() {
    let (stack, proxy, run) = success_without_an_answer("2").await;
    // By now all that follows would be heard.
    wait_for_line(&run, "the callback running was not confirmed: gave up after 2 s").await;
    proxy.to_client(Flow::Pass);
    let outcome = run.finish(RUN_LIMIT).await.unwrap();
    assert!(!outcome.success, "{}", outcome.output);
    assert!(outcome.output.contains("it is not reported as failed"), "{}", outcome.output);
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(applied(&db, "unanswered").await, [Kind::Provisioning, Kind::Running]);
    let job = job(&db, "unanswered").await.unwrap();
    assert_eq!((job.status, job.error), (Status::Running, None));
    assert_audited(&stack).await;
}

/// Nothing is provisioned for a job whose beginning nobody heard of.
#[tokio::test]
async fn a_beginning_that_nobody_hears_is_a_failure_with_its_reason() {
    let port = Port::lease().unwrap();
    let any = ([127, 0, 0, 1], 0).into();
    let mut stack = Stack::builder().ingress_listen(port.address(), any).start().await.unwrap();
    stack.ingress.process.kill9();
    let workflow = e2e::act::workflow().unwrap();
    let hasty = workflow.replacen("${{ vars.CALLBACK_DEADLINE || '240' }}", "2", 1);
    assert_ne!(workflow, hasty);
    let inputs = Inputs { workflow: Some(hasty), ..inputs_of(&stack, "unheard") };
    let run = start(&stack, &inputs);
    wait_for_line(&run, "the callback provisioning was not confirmed").await;
    stack.start_ingress().await.unwrap();
    let outcome = run.finish(RUN_LIMIT).await.unwrap();
    assert!(!outcome.success, "{}", outcome.output);
    assert!(!outcome.output.contains("Provisioning agent-1"), "{}", outcome.output);

    let db = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &db, "unheard", Status::Failed).await;
    assert_eq!(job.failure, Some(Failure::Reported));
    assert_eq!(job.failed_step.as_deref(), Some("report_provisioning"));
    let error = job.error.unwrap();
    assert!(
        error.contains("the callback provisioning was not confirmed: gave up after 2 s"),
        "{error}"
    );
    assert_eq!(applied(&db, "unheard").await, [Kind::Failed]);
    assert_audited(&stack).await;
}
