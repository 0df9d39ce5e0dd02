//! Dead letters, decided about in the browser.

use e2e::browser;
use e2e::stack::{Db, Stack};
use rstest::rstest;
use serde_json::json;
use worker::entity::dead_letter::State;
use worker::entity::job::Status;

use super::{base, json as ask, post};
use crate::expect::*;

#[rstest]
#[case::on_sqlite(Db::Sqlite)]
#[ignore = "long: make test-console"]
#[case::on_postgres(Db::Postgres)]
#[tokio::test]
async fn dead_letters_are_requeued_and_discarded_in_the_browser(#[case] db: Db) {
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    refuse_poison(&stack, db).await;
    for id in ["mended", "dropped"] {
        accept(&stack, poison(id)).await;
        accept(&stack, status(id, "provisioning")).await;
    }
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    accept_poison(&stack, db).await;

    let (requeue, discard) = ("00/1/0", "00/3/0");
    let parameters = json!({ "base": base(&stack), "requeue": requeue, "discard": discard });
    let seen = browser::run(stack.dir(), "letters.mjs", &parameters).await.unwrap();
    assert_eq!(seen["before"].as_array().unwrap().len(), 4, "{seen:#}");
    assert_eq!(seen["payload"], poison("mended"));
    assert_eq!(seen["requeued"], "00/1/0 is applied.");
    assert_eq!(seen["discarded"], "00/3/0 is discarded.");
    assert!(seen["after"].as_str().unwrap().contains("discarded"), "{seen:#}");
    assert_eq!(seen["violations"], json!([]));

    let mended = job(&database, "mended").await.unwrap();
    assert_eq!((mended.status, mended.region.as_deref()), (Status::Provisioning, Some("poison")));
    let dropped = job(&database, "dropped").await.unwrap();
    assert_eq!((dropped.status, dropped.region), (Status::Provisioning, None));
    let letters = dead_letters(&database).await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].seq, letters[0].state), (3, State::Discarded));
}

#[tokio::test]
async fn programs_decide_about_dead_letters_too() {
    let db = Db::Sqlite;
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    refuse_poison(&stack, db).await;
    accept(&stack, poison("a")).await;
    accept(&stack, status("a", "provisioning")).await;
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;

    let listed = ask(&stack, "/api/v1/dead-letters", 200).await;
    let of = |field: &str| -> Vec<&str> {
        let items = listed["items"].as_array().unwrap();
        items.iter().map(|letter| letter[field].as_str().unwrap()).collect()
    };
    assert_eq!(of("position"), ["00-1-0", "00-2-0"]);
    assert_eq!(of("state"), ["dead", "held"]);
    // The letters themselves have the payload: a list of them could take any amount of memory.
    for (letter, payload) in
        listed["items"].as_array().unwrap().iter().zip([poison("a"), status("a", "provisioning")])
    {
        assert_eq!(letter["payload"], json!(null), "{letter}");
        assert_eq!(letter["payload_bytes"], payload.len(), "{letter}");
    }
    let printed = stack.ackline_json(&["dead-letters", "list", "--json"]).await.unwrap();
    assert_eq!(printed[0]["payload"], json!(null), "{printed}");
    assert_eq!(printed[0]["payload_bytes"], poison("a").len(), "{printed}");
    let first = ask(&stack, "/api/v1/dead-letters?limit=1", 200).await;
    let second = format!("/api/v1/dead-letters?limit=1&after={}", first["next"].as_str().unwrap());
    assert_eq!(ask(&stack, &second, 200).await["items"][0]["position"], "00-2-0");
    assert_eq!(
        ask(&stack, "/api/v1/dead-letters?state=held", 200).await["items"][0]["job_id"],
        "a"
    );
    assert_eq!(ask(&stack, "/api/v1/dead-letters?job_id=b", 200).await["items"], json!([]));
    let shown = ask(&stack, "/api/v1/dead-letters/00-1-0", 200).await;
    assert_eq!(shown["payload"], poison("a"));

    let order = async |position: &str, action: &str| {
        let answer = post(&stack, &format!("/api/v1/dead-letters/{position}/{action}"), &[]).await;
        (answer.status, serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap())
    };
    let (code, problem) = order("00-2-0", "requeue").await;
    assert_eq!((code, &problem["title"]), (409, &json!("Conflict")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("held behind"), "{problem}");
    assert_eq!(order("00-9-0", "discard").await.0, 404);
    assert_eq!(order("nonsense", "discard").await.0, 400);
    let (code, refused) = order("00-1-0", "requeue").await;
    assert_eq!((code, &refused["outcome"]), (200, &json!("refused")), "{refused}");
    accept_poison(&stack, db).await;
    let (code, applied) = order("00-1-0", "requeue").await;
    assert_eq!((code, &applied["outcome"]), (200, &json!("applied")), "{applied}");
    assert_eq!(ask(&stack, "/api/v1/jobs/a", 200).await["status"], "provisioning");
    assert_eq!(order("00-1-0", "requeue").await.0, 404, "it is dead no more");
}
