//! A job's page follows its workflow.

use e2e::act::Act;
use e2e::browser;
use e2e::stack::{Db, Stack};
use serde_json::{Value, json};

use super::base;
use crate::expect::*;
use crate::workflow::{held, inputs_of};

/// What a browser sees of a workflow that runs under act, from the job's creation to its end.
async fn follow(db: Db, fail: Option<&str>) -> Value {
    let repository = ("REPOSITORY_URL", "https://github.com/owner/name");
    let stack = Stack::builder()
        .db(db)
        .partitions(2)
        .env(repository.0, repository.1)
        .start()
        .await
        .unwrap();
    let id = "live-1";
    let queued = ["send", "--status", "queued", "--job-id", id, "--region", "eu-central-1"];
    stack.ackline(&queued).await.unwrap();
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;

    let go_on = stack.dir().join("go-on");
    let mut inputs = inputs_of(&stack, id);
    inputs.workflow = Some(held(&go_on));
    inputs.run_id = Some(4711);
    inputs.fail = fail.map(str::to_owned);
    let _run = Act::start(stack.dir(), "act", &inputs).unwrap();
    let ends = if fail.is_some() { "failed" } else { "running" };
    let parameters = json!({ "base": base(&stack), "id": id, "go_on": go_on, "ends": ends });
    browser::run(stack.dir(), "live.mjs", &parameters).await.unwrap()
}

#[tokio::test]
async fn a_page_follows_a_workflow_that_succeeds() {
    let seen = follow(Db::Sqlite, None).await;
    assert_eq!(seen["sameness"], json!([true, true, true]), "no page was loaded again");
    assert_eq!(seen["violations"], json!([]));
    assert_eq!(seen["run"]["text"], "4711 #1");
    let run = "https://github.com/owner/name/actions/runs/4711/attempts/1";
    assert_eq!(seen["run"]["href"], run);
    assert_eq!(seen["timeline"], json!(["queued", "provisioning", "running"]));
    assert_eq!(seen["outcomes"], json!(["applied", "applied", "applied"]));
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn a_page_follows_a_workflow_that_fails() {
    let seen = follow(Db::Postgres, Some("no <b>capacity</b> left")).await;
    assert_eq!(seen["sameness"], json!([true, true, true]), "no page was loaded again");
    assert_eq!(seen["violations"], json!([]));
    assert_eq!(seen["timeline"], json!(["queued", "provisioning", "failed"]));
    assert!(seen["error"].as_str().unwrap().contains("no <b>capacity</b> left"), "{seen:#}");
}
