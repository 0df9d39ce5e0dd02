//! Workflow runs that die, or only seem to.

use std::time::Duration;

use e2e::act::{Act, Inputs};
use e2e::proxy::{Flow, Proxy};
use e2e::stack::CALLBACK_PATH;

use super::*;
use crate::workflow::{held, inputs_of, succeeds, wait_for_heartbeats};

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_run_whose_runner_is_killed_is_presumed_failed() {
    let stack = impatient(Db::Postgres, "5s").start().await.unwrap();
    let inputs = Inputs { provision_seconds: 60, ..inputs_of(&stack, "killed") };
    let mut run = Act::start(stack.dir(), "act-killed", &inputs).unwrap();
    let rows = stack.db().await.unwrap();
    wait_for_heartbeats(&stack, &rows, "killed", 2).await;
    run.process.kill9();

    let job = wait_until_presumed(&stack, &rows, "killed").await;
    let last = job.last_heartbeat_at.unwrap();
    let since = last.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    assert_eq!(job.error, Some(format!("no heartbeat since {since}")));
    let silent = job.finished_at.unwrap().signed_duration_since(last).to_std().unwrap();
    assert!(silent >= TIMEOUT, "{silent:?}");
    println!("presumed failed {:.2} s after the timeout", (silent - TIMEOUT).as_secs_f64());
    assert_eq!(
        outcomes(&rows, "killed").await,
        [(Kind::Provisioning, Effect::Applied), (Kind::Lost, Effect::Applied)]
    );
    assert_audited(&stack).await;
}

/// The run goes on while nobody hears it.
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_run_that_is_cut_off_is_revived_and_ends_as_it_says() {
    let stack = impatient(Db::Sqlite, "5s").start().await.unwrap();
    let proxy = Proxy::start(stack.ingress.addr).await.unwrap();
    let url = format!("http://{}{CALLBACK_PATH}", proxy.address());
    let go_on = stack.dir().join("go-on");
    let inputs =
        Inputs { workflow: Some(held(&go_on)), ..Inputs::new("cut", &url, stack.secret()) };
    let run = Act::start(stack.dir(), "act-cut", &inputs).unwrap();
    let db = stack.db().await.unwrap();
    wait_for_heartbeats(&stack, &db, "cut", 1).await;

    proxy.to_server(Flow::Swallow);
    let presumed = wait_until_presumed(&stack, &db, "cut").await;
    // It stays cut off for twice its timeout.
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(job(&db, "cut").await.unwrap(), presumed);
    proxy.to_server(Flow::Pass);
    proxy.cut();
    let revived = wait_for_status(&stack, &db, "cut", Status::Provisioning).await;
    assert_eq!((revived.error, revived.failure, revived.finished_at), (None, None, None));

    std::fs::write(go_on, "").unwrap();
    succeeds(run).await;
    wait_for_status(&stack, &db, "cut", Status::Running).await;
    assert_eq!(
        outcomes(&db, "cut").await,
        [
            (Kind::Provisioning, Effect::Applied),
            (Kind::Lost, Effect::Applied),
            (Kind::Heartbeat, Effect::Revived),
            (Kind::Running, Effect::Applied),
        ]
    );
    assert_audited(&stack).await;
}
