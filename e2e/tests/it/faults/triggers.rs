//! A trigger that refuses every change of one of our tables: it is said, nothing is lost, and all
//! goes on when it is gone.

use e2e::stack::{Db, Stack};
use rstest::rstest;
use sea_orm::EntityTrait;
use worker::entity::dead_letter::State;
use worker::entity::job::Status;
use worker::entity::partition_gap;

use super::ownership::stopped;
use super::refused::{execute, overview, stack};
use crate::expect::*;

const EVENTS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// Lets a table refuse these changes.
async fn refuse(stack: &Stack, db: Db, table: &str, events: &[&str]) {
    let statements = match db {
        Db::Postgres => format!(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE 'broken'; END $$; \
             CREATE TRIGGER broken BEFORE {} ON {table} FOR EACH ROW EXECUTE FUNCTION broken()",
            events.join(" OR ")
        ),
        Db::Sqlite => (0..).zip(events).fold(String::new(), |statements, (number, event)| {
            statements
                + &format!(
                    "CREATE TRIGGER broken_{number} BEFORE {event} ON {table} \
                     BEGIN SELECT RAISE(ABORT, 'broken'); END; "
                )
        }),
    };
    execute(stack, &statements).await;
}

/// Lets it take them again.
async fn allow(stack: &Stack, db: Db, events: &[&str]) {
    let statements = match db {
        Db::Postgres => "DROP FUNCTION broken CASCADE".to_owned(),
        Db::Sqlite => (0..events.len()).fold(String::new(), |statements, number| {
            statements + &format!("DROP TRIGGER broken_{number}; ")
        }),
    };
    execute(stack, &statements).await;
}

/// What the database says then, with its code.
fn broken(db: Db) -> &'static str {
    match db {
        Db::Postgres => "broken (SQLSTATE P0001)",
        Db::Sqlite => "broken (SQLite 1811)",
    }
}

async fn is_logged(stack: &Stack, text: &str) {
    let log = stack.worker.process.log();
    let wanted = format!("the log says {text:?}");
    stack.wait_until(&wanted, SOON, async || log.text().contains(text)).await;
}

/// Waits for `ackline status` to fail with this text.
async fn is_needed(stack: &Stack, text: &str) {
    let wanted = format!("`ackline status` says {text:?}");
    let is_said = async || {
        let (code, output) = run(stack, &ackline(stack, &["status"])).await;
        code == 1 && output.contains(text)
    };
    stack.wait_until(&wanted, SOON, is_said).await;
}

/// What is in the stream then: a message that can't be decoded, and eight callbacks.
#[rstest]
#[case::jobs("jobs", &EVENTS)]
#[case::job_events("job_events", &EVENTS)]
#[case::dead_letters("dead_letters", &EVENTS)]
#[case::partitions("partitions", &EVENTS)]
#[case::checkpoints("partitions", &["UPDATE OF applied_seq"])]
#[case::workers("workers", &EVENTS)]
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_trigger_that_refuses_everything_is_said_and_loses_nothing(
    #[case] table: &str,
    #[case] events: &[&str],
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let stack = stack(db).await;
    let database = stack.db().await.unwrap();
    refuse(&stack, db, table, events).await;
    let jetstream = async_nats::jetstream::new(stack.nats.client().await.unwrap());
    jetstream.publish("callbacks.1.00", "garbage".into()).await.unwrap().await.unwrap();
    for n in 0..8 {
        accept(&stack, status(&format!("job-{n}"), "queued")).await;
    }

    let code = match table {
        "jobs" | "job_events" => Some("ACK-106"),
        "dead_letters" | "partitions" => Some("ACK-107"),
        _ => None,
    };
    let shown = async || {
        let Some(code) = code else { return false };
        let labels = [("partition", "00"), ("code", code)];
        series(stack.worker.ops, "ackline_worker_partition_stopped", &labels).await == 1.0
    };
    if let Some(code) = code {
        is_logged(&stack, code).await;
        stack.wait_until("the metric says so", SOON, shown).await;
    }
    if table != "jobs" && table != "job_events" {
        is_logged(&stack, broken(db)).await;
    }
    match (table, events) {
        ("jobs" | "job_events", _) => is_needed(&stack, "ACK-106: too many dead letters").await,
        ("dead_letters", _) | ("partitions", [_]) => is_needed(&stack, broken(db)).await,
        _ => {
            // Nobody can renew a lease.
            is_needed(&stack, "nobody owns partition 00").await;
            assert!(!is_ready(stack.worker.ops).await);
        }
    }
    if table == "workers" {
        // Whoever has the partition keeps it.
        wait_until_applied(&stack, &database).await;
    }

    allow(&stack, db, events).await;
    wait_until_applied(&stack, &database).await;
    let letters = dead_letters(&database).await;
    let most = if code == Some("ACK-106") { 3 } else { 1 };
    assert_eq!(letters.len(), most, "only what was refused itself is buried");
    for letter in letters {
        assert_eq!(letter.state, State::Dead);
        let decision = if letter.job_id.is_some() { "requeue" } else { "discard" };
        stack.ackline(&["dead-letters", decision, &place(&letter)]).await.unwrap();
    }
    let jobs = jobs(&database).await;
    assert!(jobs.len() == 8 && jobs.iter().all(|job| job.status == Status::Queued));
    stack.wait_until("the metric is over it", SOON, async || !shown().await).await;
    stack.wait_until("it is ready", SOON, async || is_ready(stack.worker.ops).await).await;
    overview(&stack, 0).await;
    assert_audited(&stack).await;
}

/// SQLite ends the whole transaction then, so that no dead letter can be written in it either.
#[tokio::test]
async fn a_trigger_that_ends_the_transaction_is_named_and_loses_nothing() {
    let stack = stack(Db::Sqlite).await;
    let database = stack.db().await.unwrap();
    let statement = "CREATE TRIGGER ending BEFORE INSERT ON jobs WHEN NEW.id = 'a' \
                     BEGIN SELECT RAISE(ROLLBACK, 'not here'); END";
    execute(&stack, statement).await;
    for id in ["a", "b"] {
        accept(&stack, status(id, "queued")).await;
    }
    stopped(&stack, "ACK-107").await;
    is_needed(&stack, "again and again, after 0: not here (SQLite 1811)").await;
    execute(&stack, "DROP TRIGGER ending").await;
    for id in ["a", "b"] {
        wait_for_status(&stack, &database, id, Status::Queued).await;
    }
    assert!(dead_letters(&database).await.is_empty());
    overview(&stack, 0).await;
    assert_audited(&stack).await;
}

#[rstest]
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn an_order_that_a_trigger_refuses_is_named_and_carried_out_in_the_end(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let events = ["UPDATE", "DELETE"];
    let stack = stack(db).await;
    let database = stack.db().await.unwrap();
    refuse_poison(&stack, db).await;
    accept(&stack, poison("a")).await;
    wait_until_applied(&stack, &database).await;
    accept_poison(&stack, db).await;
    refuse(&stack, db, "dead_letters", &events).await;
    let requeue = ackline(&stack, &["dead-letters", "requeue", "00/1/0"]);
    let (code, output) = run(&stack, &requeue).await;
    assert!(code == 1 && output.contains("the order is in the stream as message 2"), "{output}");
    stopped(&stack, broken(db)).await;
    is_needed(&stack, broken(db)).await;

    allow(&stack, db, &events).await;
    wait_for_status(&stack, &database, "a", Status::Queued).await;
    overview(&stack, 0).await;
    assert_audited(&stack).await;
}

on_each_database!(a_gap_that_a_trigger_refuses_is_not_accepted);

async fn a_gap_that_a_trigger_refuses_is_not_accepted(db: Db) {
    let mut stack = stack(db).await;
    let database = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &database).await;
    stack.worker.process.kill9();
    for step in ["queued", "provisioning", "running"] {
        accept(&stack, status("b", step)).await;
    }
    first_stream(&stack).await.purge().sequence(4).await.unwrap();
    stack.start_worker().await.unwrap();
    stopped(&stack, "ACK-103").await;
    stack.worker.process.kill9();

    refuse(&stack, db, "partition_gaps", &EVENTS).await;
    let before = partitions(&database).await;
    let accept_it = ackline(&stack, &["partitions", "accept", "0", "--yes"]);
    let (code, output) = run(&stack, &accept_it).await;
    assert!(code == 1 && output.contains(broken(db)), "{output}");
    assert_eq!(partitions(&database).await, before, "nothing has changed");
    overview(&stack, 1).await;

    allow(&stack, db, &EVENTS).await;
    let (code, output) = run(&stack, &accept_it).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(partition_gap::Entity::find().all(&database).await.unwrap().len(), 1);
    stack.start_worker().await.unwrap();
    wait_for_status(&stack, &database, "b", Status::Running).await;
    overview(&stack, 0).await;
    assert_audited(&stack).await;
}

on_each_database!(a_move_that_a_trigger_refuses_is_said_until_it_is_finished);

/// It is refused when the new streams are open, and take callbacks that nobody applies.
async fn a_move_that_a_trigger_refuses_is_said_until_it_is_finished(db: Db) {
    let stack = stack(db).await;
    let database = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &database).await;
    refuse(&stack, db, "partition_gaps", &EVENTS).await;
    let resize = ackline(&stack, &["partitions", "resize", "2", "--yes"]);
    let (code, output) = run(&stack, &resize).await;
    let said = "the move to generation 2 is not finished: run it again";
    assert!(code == 1 && output.contains(said) && output.contains(broken(db)), "{output}");
    until_accepted(&stack, status("a", "running")).await;
    is_needed(&stack, "ACK-414: the streams of generation 1 are closed").await;
    assert_eq!(partitions(&database).await.len(), 1);

    allow(&stack, db, &EVENTS).await;
    let (code, output) = run(&stack, &resize).await;
    assert_eq!(code, 0, "{output}");
    wait_for_status(&stack, &database, "a", Status::Running).await;
    stack
        .wait_until("all is in order", SOON, async || {
            run(&stack, &ackline(&stack, &["status"])).await.0 == 0
        })
        .await;
    assert_audited(&stack).await;
}
