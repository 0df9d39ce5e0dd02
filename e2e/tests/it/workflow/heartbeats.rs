//! Heartbeats live as long as they should, and no longer.

use e2e::act::Inputs;
use e2e::stack::{Db, Stack};
use rstest::rstest;
use worker::entity::job::Status;
use worker::entity::job_event::Kind;

use super::*;

#[tokio::test]
async fn heartbeats_arrive_during_later_steps_and_stop() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let go_on = stack.dir().join("go-on");
    let inputs = Inputs { workflow: Some(held(&go_on)), ..inputs_of(&stack, "beating") };
    let run = start(&stack, &inputs);

    let db = stack.db().await.unwrap();
    wait_for_line(&run, "Provisioning agent-1").await;
    let before = job(&db, "beating").await.map_or(0, |job| i64::from(job.heartbeat_count));
    wait_for_heartbeats(&stack, &db, "beating", before + 2).await;
    assert_ne!(senders(&stack, "act-beating"), Vec::<String>::new());
    std::fs::write(go_on, "").unwrap();
    succeeds(run).await;
    assert_eq!(senders(&stack, "act-beating"), Vec::<String>::new());
    wait_for_status(&stack, &db, "beating", Status::Running).await;
    assert_eq!(applied(&db, "beating").await, [Kind::Provisioning, Kind::Running]);
    assert_audited(&stack).await;
}

#[tokio::test]
async fn heartbeats_end_after_their_lifetime() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let start = [
        ("ACKLINE_MODE", "start-heartbeats"),
        ("ACKLINE_JOB_ID", "left"),
        ("ACKLINE_HEARTBEAT_LIFETIME", "3"),
        ("ACKLINE_HEARTBEAT_TIMEOUT", "7200"),
    ];
    step_succeeds(step(&stack, "start", &start)).await;
    let db = stack.db().await.unwrap();
    wait_for_heartbeats(&stack, &db, "left", 1).await;
    assert_eq!(job(&db, "left").await.unwrap().heartbeat_timeout_s, Some(7200));
    let pid = std::fs::read_dir(stack.dir().join("runner-temp")).unwrap().find_map(|state| {
        let pid = std::fs::read_to_string(state.unwrap().path().join("heartbeats.pid")).ok()?;
        pid.split(' ').next().map(str::to_owned)
    });
    let process = std::path::Path::new("/proc").join(pid.unwrap());
    stack.wait_until("the heartbeats end", SOON, async || !process.exists()).await;

    let stop = [("ACKLINE_MODE", "stop-heartbeats"), ("ACKLINE_JOB_ID", "left")];
    let output = step_succeeds(step(&stack, "stop", &stop)).await;
    assert!(output.contains("after their lifetime of 3 s"), "{output}");
    assert_audited(&stack).await;
}

#[tokio::test]
async fn heartbeats_that_nobody_takes_fail_no_job() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let inputs = [("ACKLINE_JOB_ID", "unheard"), ("ACKLINE_SECRET", "not-the-secret")];
    let with_mode = |mode| [("ACKLINE_MODE", mode), inputs[0], inputs[1]];
    step_succeeds(step(&stack, "start", &with_mode("start-heartbeats"))).await;
    let refused =
        async || series(stack.ingress.ops, "ackline_ingress_refused_total", &[]).await > 0.0;
    stack.wait_until("a heartbeat is refused", SOON, refused).await;
    // Its log has the answer a moment later.
    let state =
        std::fs::read_dir(stack.dir().join("runner-temp")).unwrap().next().unwrap().unwrap();
    let log = state.path().join("heartbeats.log");
    let is_written = async || std::fs::read_to_string(&log).unwrap().contains("Invalid signature");
    stack.wait_until("it is in the log", SOON, is_written).await;
    let output = step_succeeds(step(&stack, "stop", &with_mode("stop-heartbeats"))).await;
    assert!(output.contains("a heartbeat was not confirmed: the server answered 401"), "{output}");
}

/// The parent of a step in a container is outside of it: nobody there sees it end.
#[rstest]
#[tokio::test]
async fn heartbeats_of_a_runner_that_cannot_be_seen_end_soon(
    #[values("/proc/", "/no-proc/")] proc: &str,
) {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let _end = EndOfHeartbeats(&stack);
    let hasty = changed_action(&stack, &[("=3600", "=3"), ("/proc/", proc)]);
    let program = Program::new("start", "/bin/bash", stack.dir())
        .args([hasty.join("callback.sh").as_os_str(), "0".as_ref()])
        .envs(variables(&stack))
        .envs([("ACKLINE_MODE", "start-heartbeats"), ("ACKLINE_HEARTBEAT_LIFETIME", "")]);
    let output = step_succeeds(stack.spawn(&program).unwrap()).await;
    let warning = "::warning::Ackline: the runner's process cannot be seen from this container, so \
                   the heartbeats end after 3 s. Set \"heartbeat-lifetime\" slightly above \
                   timeout-minutes.\n";
    assert!(output.contains(warning), "{output}");
    let db = stack.db().await.unwrap();
    wait_for_heartbeats(&stack, &db, "job", 1).await;
    let have_ended = async || left_by_steps(&stack).is_empty();
    stack.wait_until("the heartbeats end", SOON, have_ended).await;
    let stop = step_succeeds(step(&stack, "stop", &[("ACKLINE_MODE", "stop-heartbeats")])).await;
    assert!(stop.contains("the heartbeats have ended after their lifetime of 3 s"), "{stop}");
}

/// Where the runner can be seen, its end is theirs.
#[rstest]
#[tokio::test]
async fn heartbeats_end_with_a_runner_that_is_killed(#[values("/proc/", "/no-proc/")] proc: &str) {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let _end = EndOfHeartbeats(&stack);
    let action = changed_action(&stack, &[("/proc/", proc)]);
    let mut runner =
        Program::new("runner", "/bin/sleep", stack.dir()).args(["600"]).start().unwrap();
    let program = Program::new("start", "/bin/bash", stack.dir())
        .args([action.join("callback.sh").as_os_str(), runner.pid().to_string().as_ref()])
        .envs(variables(&stack))
        .envs([("ACKLINE_MODE", "start-heartbeats"), ("ACKLINE_HEARTBEAT_LIFETIME", "")]);
    let output = step_succeeds(stack.spawn(&program).unwrap()).await;
    assert!(!output.contains("::warning::"), "{output}");
    assert_ne!(left_by_steps(&stack), Vec::<String>::new());
    runner.kill9();
    let have_ended = async || left_by_steps(&stack).is_empty();
    stack.wait_until("the heartbeats end", SOON, have_ended).await;
}
