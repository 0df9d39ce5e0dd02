//! What goes into the action is data, and what is wrong with it is said.

use e2e::act::{Act, Inputs};
use e2e::stack::{Db, Stack};
use rstest::rstest;
use worker::entity::job::Status;
use worker::entity::job_event::Kind;

use super::*;

/// What shells, YAML, expressions, JSON and old runners would take for something else than text.
const HOSTILE: &str = r#"a'b"c`touch pwned`$(touch pwned)${HOME};touch pwned;${{ secrets.CALLBACK_SECRET }} \n\\ %0A ü 日本 🦀 ::error::x"#;

on_each_database!(inputs_are_data);

async fn inputs_are_data(db: Db) {
    let stack = Stack::start(db).await.unwrap();
    let reason = format!("first {HOSTILE}\nsecond\t{HOSTILE}");
    let inputs = Inputs {
        agent_id: HOSTILE.to_owned(),
        region: format!("{HOSTILE}\n{HOSTILE}"),
        fail: Some(reason.clone()),
        provision_seconds: 1,
        ..inputs_of(&stack, HOSTILE)
    };
    let outcome = Act::run(stack.dir(), "act-hostile", &inputs, RUN_LIMIT).await.unwrap();
    assert!(!outcome.success, "{}", outcome.output);

    let database = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &database, HOSTILE, Status::Failed).await;
    assert_eq!(job.error, Some(format!("Provisioning failed: {reason}")));
    assert_eq!(job.failed_step.as_deref(), Some("provision"));
    assert_eq!(applied(&database, HOSTILE).await, [Kind::Provisioning, Kind::Failed]);

    // Agent and region travel with the callback that queues a job.
    let queue = [
        ("ACKLINE_STATUS", "queued"),
        ("ACKLINE_JOB_ID", HOSTILE),
        ("ACKLINE_AGENT_ID", HOSTILE),
        ("ACKLINE_REGION", &format!("{HOSTILE}\n")),
    ];
    step_succeeds(step(&stack, "queue", &queue)).await;
    wait_until_applied(&stack, &database).await;
    let job = crate::expect::job(&database, HOSTILE).await.unwrap();
    assert_eq!(job.agent_id.as_deref(), Some(HOSTILE));
    assert_eq!(job.region, Some(format!("{HOSTILE}\n")));
    let touched =
        std::process::Command::new("find").arg(stack.dir()).args(["-name", "pwned"]).output();
    assert_eq!(touched.unwrap().stdout, b"", "an input was run");
    assert_audited(&stack).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_become_replacement_characters() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let folder = stack.dir().join("errors");
    std::fs::create_dir_all(&folder).unwrap();
    let mut bytes = "ü".repeat(600).into_bytes();
    bytes.extend(b"\xff \xc3( \xed\xa0\x80 \xf0\x9f\xa6 \x1b[31m\0end");
    std::fs::write(folder.join("build.err"), bytes).unwrap();
    let failed = [
        ("ACKLINE_STATUS", "failed"),
        ("ACKLINE_OUTCOMES", "look=success build=failure stop=failure"),
        ("ACKLINE_ERROR_FOLDER", folder.to_str().unwrap()),
    ];
    step_succeeds(step(&stack, "failed", &failed)).await;
    let db = stack.db().await.unwrap();
    let job = wait_for_status(&stack, &db, "job", Status::Failed).await;
    assert_eq!(job.failed_step.as_deref(), Some("build"));
    let error = job.error.unwrap();
    assert!(error.starts_with('ü') && error.len() <= 1100, "{error:?}");
    assert!(
        error.ends_with(
            "ü\u{fffd} \u{fffd}( \u{fffd}\u{fffd}\u{fffd} \u{fffd}\u{fffd}\u{fffd} \u{1b}[31mend"
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_an_input_is_said() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let status = ("ACKLINE_STATUS", "provisioning");
    for (name, input, said) in [
        ("secret", ("ACKLINE_SECRET", ""), "the secret is empty"),
        (
            "space",
            ("ACKLINE_CALLBACK_URL", "https://ackline.example.com/\r"),
            r#"the input "callback-url" begins or ends with white space"#,
        ),
        ("job", ("ACKLINE_JOB_ID", ""), r#"the input "job-id" is empty"#),
        (
            "url",
            ("ACKLINE_CALLBACK_URL", "file:///etc/passwd"),
            r#""callback-url" is no http or https URL"#,
        ),
        ("deadline", ("ACKLINE_DEADLINE", "1m"), r#"the input "deadline" is not a number"#),
        (
            "interval",
            ("ACKLINE_HEARTBEAT_INTERVAL", "0"),
            r#""heartbeat-interval" is not a number"#,
        ),
        (
            "lifetime",
            ("ACKLINE_HEARTBEAT_LIFETIME", "x[$(touch pwned)]"),
            r#""heartbeat-lifetime" is not"#,
        ),
        ("none", ("ACKLINE_HEARTBEAT_TIMEOUT", "0"), r#""heartbeat-timeout" is not a number"#),
        ("days", ("ACKLINE_HEARTBEAT_TIMEOUT", "86401"), r#""heartbeat-timeout" is not a number"#),
        ("status", ("ACKLINE_STATUS", "done"), r#"the input "status" is neither"#),
        ("mode", ("ACKLINE_MODE", "stop"), r#"the input "mode" is neither"#),
    ] {
        let (success, output) = finished(step(&stack, name, &[status, input])).await;
        assert!(!success, "{name}: {output}");
        let error =
            output.lines().find(|line| line.starts_with("::error::Ackline: ")).unwrap_or_default();
        assert!(error.contains(said), "{name}: {output}");
    }
    let outcomes = [("ACKLINE_STATUS", "failed"), ("ACKLINE_OUTCOMES", "* a=failure")];
    let (success, output) = finished(step(&stack, "outcomes", &outcomes)).await;
    assert!(!success && output.contains("is not a list of id=outcome"), "{output}");
    let late = [
        ("ACKLINE_MODE", "start-heartbeats"),
        ("ACKLINE_HEARTBEAT_INTERVAL", "60"),
        ("ACKLINE_HEARTBEAT_TIMEOUT", "60"),
    ];
    let (success, output) = finished(step(&stack, "late", &late)).await;
    assert!(!success && output.contains("every heartbeat would come too late"), "{output}");
    assert!(events(&stack.db().await.unwrap()).await.is_empty());
    let refused = series(stack.ingress.ops, "ackline_ingress_refused_total", &[]).await;
    assert_eq!(refused, 0.0, "nothing was sent");
}

#[tokio::test]
async fn a_refusal_fails_at_once_with_the_servers_reason() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let wrong = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_SECRET", "not-the-secret")];
    let output = step_fails(step(&stack, "wrong", &wrong)).await;
    let reason = r#"not confirmed: the server answered 401: {"error":"Invalid signature"}"#;
    assert!(output.contains(reason), "{output}");
    assert!(!output.contains("trying again"), "{output}");
    assert!(output.starts_with("::add-mask::not-the-secret\n"), "{output}");
    let long = "x".repeat(201);
    let long = [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_JOB_ID", &*long)];
    let (success, output) = finished(step(&stack, "long", &long)).await;
    assert!(!success && output.contains(r#"400: {"error":"Invalid job_id"}"#), "{output}");
}

/// What a file or a terminal adds to a secret does not show in the settings of a repository.
#[rstest]
#[case::newline("never-log-this\n")]
#[case::carriage_return("never-log-this\r")]
#[case::both("never-log-this\r\n")]
#[case::leading(" never-log-this")]
#[case::tab("\tnever-log-this")]
#[case::nothing_else(" ")]
#[tokio::test]
async fn a_secret_with_white_space_around_it_is_named_and_not_shown(#[case] secret: &str) {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    for input in [("ACKLINE_STATUS", "provisioning"), ("ACKLINE_MODE", "start-heartbeats")] {
        let output = step_fails(step(&stack, "space", &[("ACKLINE_SECRET", secret), input])).await;
        let said = "::error::Ackline: the secret begins or ends with white space, perhaps a \
                    newline: set the Actions secret again, without it.\n";
        assert_eq!(output, said);
    }
    let refused = series(stack.ingress.ops, "ackline_ingress_refused_total", &[]).await;
    assert_eq!(refused, 0.0, "nothing was sent");
}

/// act's run id is always 1, so that its second run of a job is taken for the first.
#[tokio::test]
async fn a_run_id_that_does_not_change_is_named() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let warning = "::warning::Ackline: the run id is 1, as it always is in act: Ackline cannot tell \
                   a second run from this one, and a job that this one ends stays so. Give each \
                   run its own GITHUB_RUN_ID; act takes it by --env GITHUB_RUN_ID=NUMBER.\n";
    for (id, is_warned) in [("1", true), ("11", false), ("", false)] {
        let env = [("ACKLINE_STATUS", "provisioning"), ("GITHUB_RUN_ID", id)];
        let output = step_succeeds(step(&stack, "id", &env)).await;
        assert_eq!(output.contains(warning), is_warned, "{output}");
    }
}
