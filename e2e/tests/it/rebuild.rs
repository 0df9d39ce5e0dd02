//! The streams folded into an empty database, or into one that was restored, give the rows that the
//! live one had.

use e2e::load::Load;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use serde_json::json;
use worker::entity::job::Status;

use crate::audit::everything_happens;
use crate::expect::*;
use crate::faults::restore::Way;

/// Every row of the three tables, as the streams give them.
pub(crate) async fn rows(db: &DatabaseConnection) -> String {
    let rows = json!([jobs(db).await, events(db).await, dead_letters(db).await]);
    serde_json::to_string_pretty(&rows).unwrap()
}

/// An empty database beside the stack's own, and its address.
pub(crate) async fn another(stack: &Stack, db: Db, name: &str) -> (String, DatabaseConnection) {
    let url = match db {
        Db::Sqlite => stack.database_url().replace("ackline.db", name),
        Db::Postgres => {
            let database = stack.db().await.unwrap();
            database.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
            let (server, _) = stack.database_url().rsplit_once('/').unwrap();
            format!("{server}/{name}")
        }
    };
    let opened = Database::connect(&url).await.unwrap();
    (url, opened)
}

/// Runs `ackline rebuild` for this database; returns its exit code and all that it printed.
pub(crate) async fn rebuild(stack: &Stack, url: &str, args: &[&str]) -> (i32, String) {
    run(stack, &ackline(stack, &["rebuild"]).args(args).env("DATABASE_URL", url)).await
}

on_each_database!(a_rebuild_gives_the_same_rows);

async fn a_rebuild_gives_the_same_rows(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let live = everything_happens(&stack, db).await;
    // What still waits for a decision is refused by a database that is as it was then; here it is
    // discarded first, so that an empty one can know.
    for letter in dead_letters(&live).await {
        if letter.state == worker::entity::dead_letter::State::Dead && letter.job_id.is_some() {
            let place = place(&letter);
            stack.ackline_json(&["dead-letters", "discard", &place, "--json"]).await.unwrap();
        }
    }
    wait_until_applied(&stack, &live).await;
    let expected = rows(&live).await;

    let (url, empty) = another(&stack, db, "rebuilt").await;
    let (code, output) = rebuild(&stack, &url, &[]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("rebuilt from "), "{output}");
    assert_eq!(rows(&empty).await, expected);
    // The rebuilt database is a live one: it is not empty, and a worker goes on with it.
    let (code, output) = rebuild(&stack, &url, &[]).await;
    assert!(code == 1 && output.contains("the database is not empty"), "{output}");
    assert_eq!(rows(&empty).await, expected);
    assert_audited(&stack).await;
}

#[tokio::test]
async fn one_job_is_shown_as_it_would_be() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let database = stack.db().await.unwrap();
    accept(&stack, json!({ "job_id": "a", "status": "queued", "region": "fra" }).to_string()).await;
    accept(&stack, status("a", "provisioning")).await;
    accept(&stack, status("b", "running")).await;
    wait_until_applied(&stack, &database).await;
    let dry_run = ["rebuild", "--job", "a", "--dry-run", "--json"];
    let same = stack.ackline_json(&dry_run).await.unwrap();
    assert_eq!(same["differences"], json!([]));
    assert_eq!((&same["would_be"], &same["would_be"]["region"]), (&same["is"], &json!("fra")));

    for statement in [
        "UPDATE jobs SET status = 'failed', region = 'ams' WHERE id = 'a'",
        "UPDATE jobs SET region = 'elsewhere' WHERE id = 'b'",
        "DELETE FROM job_events WHERE job_id = 'a' AND kind = 'provisioning'",
    ] {
        database.execute_unprepared(statement).await.unwrap();
    }
    let before = rows(&database).await;
    let differs = stack.ackline_json(&dry_run).await.unwrap();
    assert_eq!(differs["would_be"], same["would_be"]);
    let differences = differs["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 3, "{differs}");
    assert!(differences[0].as_str().unwrap().contains("was not applied"), "{differs}");
    assert_eq!(differences[1], r#"region must be "fra", but is "ams""#);
    assert_eq!(differences[2], r#"status must be "provisioning", but is "failed""#);
    assert_eq!(rows(&database).await, before, "a dry run changes nothing");

    let url = stack.database_url().to_owned();
    let (code, output) = rebuild(&stack, &url, &["--job", "nobody", "--dry-run"]).await;
    assert!(code == 1 && output.contains("knows a job \"nobody\""), "{output}");
    let (code, output) = rebuild(&stack, &url, &["--job", "a"]).await;
    assert!(code == 2 && output.contains("--dry-run"), "{output}");
}

#[tokio::test]
async fn a_stream_without_its_beginning_is_rebuilt_only_when_asked_for() {
    let stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    let database = stack.db().await.unwrap();
    for job_id in ["old", "new"] {
        for word in ["queued", "provisioning", "running"] {
            accept(&stack, status(job_id, word)).await;
        }
    }
    wait_until_applied(&stack, &database).await;
    first_stream(&stack).await.purge().sequence(3).await.unwrap();

    let (url, empty) = another(&stack, Db::Postgres, "rebuilt").await;
    let (code, output) = rebuild(&stack, &url, &[]).await;
    assert!(code == 1 && output.contains("partition 00 up to 2"), "{output}");
    assert!(jobs(&empty).await.is_empty());
    let (code, output) = rebuild(&stack, &url, &["--partial"]).await;
    assert_eq!(code, 0, "{output}");
    let rebuilt: Vec<_> =
        jobs(&empty).await.into_iter().map(|job| (job.id, job.status, job.first_seq)).collect();
    let expected = [("new", Status::Running, 4), ("old", Status::Running, 3)];
    assert_eq!(rebuilt, expected.map(|(id, status, seq)| (id.to_owned(), status, seq)));
    let list = ackline(&stack, &["partitions", "list"]).env("DATABASE_URL", &url);
    let (code, listed) = run(&stack, &list).await;
    assert_eq!(code, 0, "{listed}");
    assert!(listed.contains("partition 00 went on without 1 to 2"), "{listed}");
}

/// An operator has discarded a callback that the database refused. A replay into the database as it
/// was before, which would take that callback now, arrives at the same rows all the same.
#[tokio::test]
async fn a_restored_database_repeats_what_was_decided() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    let live = stack.db().await.unwrap();
    accept(&stack, status("good", "queued")).await;
    wait_until_applied(&stack, &live).await;
    Way::SqliteVacuum.back_up(&mut stack, "backup").await;

    refuse_poison(&stack, Db::Sqlite).await;
    for id in ["dropped", "mended"] {
        accept(&stack, poison(id)).await;
        accept(&stack, status(id, "provisioning")).await;
    }
    wait_until_applied(&stack, &live).await;
    stack.ackline_json(&["dead-letters", "discard", "00/2/0", "--json"]).await.unwrap();
    let in_vain = ackline(&stack, &["dead-letters", "requeue", "00/4/0"]);
    assert_eq!(run(&stack, &in_vain).await.0, 1);
    accept_poison(&stack, Db::Sqlite).await;
    stack.ackline_json(&["dead-letters", "requeue", "00/4/0", "--json"]).await.unwrap();
    let report = Load::new(stack.ingress.addr, stack.secret(), 5).start().finish().await.unwrap();
    assert_eq!(report.accepted(), 50);
    wait_until_applied(&stack, &live).await;
    let expected = rows(&live).await;
    assert_audited(&stack).await;

    // The database as it was, without the rule that refused the callback.
    live.close().await.unwrap();
    Way::SqliteVacuum.put_back(&mut stack, "backup").await;
    let restored = stack.db().await.unwrap();
    wait_until_applied(&stack, &restored).await;
    assert_eq!(rows(&restored).await, expected);
    assert_audited(&stack).await;
}
