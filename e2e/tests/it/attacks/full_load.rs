//! As many callbacks as the machine can send, by a program that waits for nothing.

use std::time::Duration;

use e2e::check;
use e2e::process::{Process, Program};
use e2e::stack::Stack;
use e2e::tools;
use serde_json::{Value, json};
use worker::entity::job_event::Effect;

use super::observed::{Held, Watch};
use crate::expect::*;

const CONNECTIONS: usize = 64;
const JOBS: usize = 2000;
const SCRIPT: &str = include_str!("wrk.lua");
/// What was accepted within ten seconds can take a slow database longer.
const LONG: Duration = Duration::from_secs(240);

/// Sends signed callbacks for ten seconds, each job's over and over.
fn wrk(stack: &Stack) -> Process {
    let callbacks: String = (0..JOBS)
        .map(|job| {
            let body = json!({
                "job_id": format!("wrk-{job}"), "event_id": format!("wrk-{job}"),
                "status": "provisioning", "workflow_run_id": "1", "run_attempt": 1,
            });
            let body = body.to_string();
            format!("{} {body}\n", stack.sign(body.as_bytes()))
        })
        .collect();
    let (script, file) = (stack.dir().join("wrk.lua"), stack.dir().join("callbacks"));
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::write(&file, callbacks).unwrap();
    let program = Program::new("wrk", tools::wrk().unwrap(), stack.dir())
        .args(["--threads", "2", "--connections", &CONNECTIONS.to_string(), "--duration", "10s"])
        .args(["--script".as_ref(), script.as_os_str()])
        .args([stack.callback_url(), "--".to_owned(), file.display().to_string()]);
    program.start().unwrap()
}

#[tokio::test]
#[ignore = "long: make test-door"]
async fn everything_that_wrk_saw_accepted_is_in_the_stream_and_applied() {
    let stack = Stack::builder().start().await.unwrap();
    let pid = stack.ingress.process.pid();
    let before = Held::by(pid);
    let watch = Watch::begin(pid);
    let mut wrk = wrk(&stack);
    assert!(wrk.wait(LONG).await.unwrap().success(), "{}", wrk.log().tail(40));
    let most = watch.most();
    let line = wrk.log().find_line(|line| line.starts_with("figures ")).unwrap();
    let figures: Value = serde_json::from_str(line.trim_start_matches("figures ")).unwrap();
    let number = |name: &str| figures[name].as_u64().unwrap();
    let accepted = number("answers") - number("not_200");

    let db = stack.db().await.unwrap();
    stack
        .wait_until("every stream is applied to its end", LONG, async || {
            let ends = stream_ends(&stack).await;
            check::is_applied(&db, &ends).await.unwrap()
        })
        .await;
    let audit = assert_audited(&stack).await;
    let stored = audit["counts"]["events"].as_u64().unwrap();
    let events = events(&db).await;
    println!(
        "wrk: {CONNECTIONS} connections, {:.1} s, {accepted} callbacks accepted ({:.0}/s), {} \
         refused, {} connections broken; p50 {} us, p99 {} us, at most {} us; {stored} in the \
         streams, {} rows; ingress: {} KiB before, {} at most",
        figures["seconds"].as_f64().unwrap(),
        accepted as f64 / figures["seconds"].as_f64().unwrap(),
        number("not_200"),
        number("broken"),
        number("p50_us"),
        number("p99_us"),
        number("max_us"),
        events.len(),
        before.memory_kib,
        most.memory_kib,
    );
    // When its time is over wrk hangs up, also on callbacks that are on their way.
    assert!((accepted..=accepted + CONNECTIONS as u64).contains(&stored), "{stored} are stored");
    assert_eq!(events.len() as u64, stored);
    assert_eq!((number("not_200"), number("broken")), (0, 0));
    let applied = events.iter().filter(|event| event.outcome == Effect::Applied).count();
    assert_eq!((applied, jobs(&db).await.len()), (JOBS, JOBS), "each took effect once");
}
