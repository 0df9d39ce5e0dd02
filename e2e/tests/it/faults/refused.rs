//! The database refuses something: whose fault is it, and who hears of it?

use std::fmt::Write as _;
use std::process::Command;

use e2e::stack::{Db, Stack};
use sea_orm::ConnectionTrait;
use serde_json::json;
use worker::entity::dead_letter::State;
use worker::entity::job::Status;

use super::ownership::stopped;
use crate::expect::*;

/// With the shortest lease that a busy machine keeps, a fault that stays is named after 6 s.
pub(super) async fn stack(db: Db) -> Stack {
    let builder = Stack::builder().db(db).partitions(1);
    builder.env("LEASE", "1s").env("DEAD_LETTER_LIMIT", "3").start().await.unwrap()
}

pub(super) async fn execute(stack: &Stack, statement: &str) {
    stack.db().await.unwrap().execute_unprepared(statement).await.unwrap();
}

/// The statements that make PostgreSQL raise this for rows of a table that fulfil a condition.
fn raising(name: &str, table: &str, condition: &str, raise: &str) -> String {
    format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF {condition} THEN {raise}; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} \
         FOR EACH ROW EXECUTE FUNCTION {name}()"
    )
}

/// A text that does not get shorter when it is compressed.
fn incompressible(length: usize) -> String {
    let (mut text, mut state) = (String::new(), 1_u64);
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(text, "{:08x}", state >> 32).unwrap();
    }
    text
}

#[tokio::test]
async fn what_one_callback_causes_in_postgres_is_its_dead_letter_and_the_others_are_applied() {
    let stack = stack(Db::Postgres).await;
    let db = stack.db().await.unwrap();
    let deferred = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                    IF NEW.id = 'late' THEN RAISE 'too late'; END IF; RETURN NULL; END $$; \
                    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON jobs \
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()";
    let cases = [
        (
            "raised",
            raising("raised", "jobs", "NEW.id = 'raised'", "RAISE 'not here'"),
            "not here (SQLSTATE P0001)",
        ),
        (
            "noted",
            raising("noted", "job_events", "NEW.job_id = 'noted'", "RAISE 'not there'"),
            "not there (SQLSTATE P0001)",
        ),
        (
            "asserted",
            raising("asserted", "jobs", "true", "ASSERT NEW.id <> 'asserted', 'never'"),
            "never (SQLSTATE P0004)",
        ),
        (
            "own",
            raising("own", "jobs", "NEW.id = 'own'", "RAISE SQLSTATE 'U0001' USING MESSAGE = 'no'"),
            "no (SQLSTATE U0001)",
        ),
        (
            "deep",
            raising(
                "deep",
                "jobs",
                "NEW.id = 'deep'",
                "RAISE SQLSTATE '54001' USING MESSAGE = 'x'",
            ),
            "x (SQLSTATE 54001)",
        ),
        ("late", deferred.to_owned(), "too late (SQLSTATE P0001)"),
        (
            "long",
            "CREATE INDEX too_narrow ON jobs (error)".to_owned(),
            "index row size 4112 exceeds btree version 4 maximum 2704 for index \"too_narrow\" \
             (SQLSTATE 54000)",
        ),
    ];
    let mut good = Vec::new();
    for (seq, (id, statement, said)) in (1_i64..).step_by(2).zip(cases) {
        execute(&stack, &statement).await;
        let bad = json!({ "job_id": id, "status": "failed", "error": incompressible(4096) });
        accept(&stack, bad.to_string()).await;
        good.push(format!("good-{id}"));
        accept(&stack, status(good.last().unwrap(), "queued")).await;
        wait_until_applied(&stack, &db).await;
        let letters = dead_letters(&db).await;
        let letter = letters.last().unwrap_or_else(|| panic!("{id} is no dead letter"));
        let reason = format!("the database refuses it: {said}");
        let found = (letter.seq, letter.job_id.as_deref(), letter.state, letter.reason.as_str());
        assert_eq!(found, (seq, Some(id), State::Dead, reason.as_str()));
    }
    good.sort_unstable();
    let ids: Vec<String> = jobs(&db).await.into_iter().map(|job| job.id).collect();
    assert_eq!(ids, good);
    assert_audited(&stack).await;
}

#[tokio::test]
async fn what_one_callback_causes_in_sqlite_is_its_dead_letter_and_the_others_are_applied() {
    let stack = stack(Db::Sqlite).await;
    let db = stack.db().await.unwrap();
    let raising = |table: &str, condition: &str, raise: &str| {
        format!(
            "CREATE TRIGGER {raise}_{table} BEFORE INSERT ON {table} WHEN {condition} \
             BEGIN SELECT RAISE({raise}, 'not here'); END"
        )
    };
    let mut good = Vec::new();
    for (id, statement) in [
        ("raised", raising("jobs", "NEW.id = 'raised'", "ABORT")),
        ("noted", raising("job_events", "NEW.job_id = 'noted'", "ABORT")),
        ("failing", raising("jobs", "NEW.id = 'failing'", "FAIL")),
    ] {
        execute(&stack, &statement).await;
        accept(&stack, status(id, "queued")).await;
        good.push(format!("good-{id}"));
        accept(&stack, status(good.last().unwrap(), "queued")).await;
        wait_until_applied(&stack, &db).await;
        let letter = dead_letters(&db).await.pop().unwrap();
        assert_eq!((letter.job_id.as_deref(), letter.state), (Some(id), State::Dead));
        assert_eq!(letter.reason, "the database refuses it: not here (SQLite 1811)");
    }
    good.sort_unstable();
    let ids: Vec<String> = jobs(&db).await.into_iter().map(|job| job.id).collect();
    assert_eq!(ids, good);
    assert_audited(&stack).await;
}

on_each_database!(a_trigger_that_refuses_every_row_stops_the_partition_and_buries_little);

/// Heartbeats, which leave no row in `job_events`, do not count as a sign that all is well.
async fn a_trigger_that_refuses_every_row_stops_the_partition_and_buries_little(db: Db) {
    for table in ["jobs", "job_events"] {
        let stack = stack(db).await;
        let database = stack.db().await.unwrap();
        // Its heartbeats change it.
        accept(&stack, status("well", "provisioning")).await;
        wait_until_applied(&stack, &database).await;
        let statement = match db {
            Db::Postgres => raising("broken", table, "true", "RAISE 'broken'"),
            Db::Sqlite => format!(
                "CREATE TRIGGER broken BEFORE INSERT ON {table} \
                 BEGIN SELECT RAISE(ABORT, 'broken'); END"
            ),
        };
        execute(&stack, &statement).await;
        for n in 0..8 {
            accept(&stack, status(&format!("job-{n}"), "queued")).await;
            if table == "job_events" {
                accept(&stack, heartbeat("well")).await;
            }
        }
        stopped(&stack, "ACK-106").await;
        let row = partitions(&database).await.remove(0);
        let reason = format!(
            "ACK-106: too many dead letters in a row, after {}: a broken deployment rather than \
             broken callbacks",
            row.applied_seq
        );
        assert_eq!(row.stopped_reason, Some(reason), "{table}");
        assert_eq!(dead_letters(&database).await.len(), 3, "{table}");

        execute(&stack, &dropping(db, table)).await;
        let mut stack = stack;
        stack.start_worker().await.unwrap();
        wait_for_status(&stack, &database, "job-7", Status::Queued).await;
        assert_eq!(dead_letters(&database).await.len(), 3, "{table}");
    }
}

fn dropping(db: Db, table: &str) -> String {
    match db {
        Db::Postgres => format!("DROP TRIGGER broken ON {table}"),
        Db::Sqlite => "DROP TRIGGER broken".to_owned(),
    }
}

/// Runs `ackline status`, which is to end so, and returns what it says.
pub(super) async fn overview(stack: &Stack, ends: i32) -> String {
    let (code, output) = run(stack, &ackline(stack, &["status"])).await;
    assert_eq!(code, ends, "{output}");
    output
}

#[tokio::test]
async fn a_fault_that_comes_back_and_is_nobodys_is_named_until_the_first_commit() {
    let stack = stack(Db::Postgres).await;
    let db = stack.db().await.unwrap();
    // Where a trigger refuses the dead letter itself, nothing can be buried either.
    let refused = raising("refused", "jobs", "true", "RAISE 'not here'");
    let unwritten = raising("broken", "dead_letters", "true", "RAISE 'nor there'");
    let cases = [
        (
            raising("broken", "job_events", "true", "RAISE SQLSTATE '42501' USING MESSAGE = 'no'"),
            "DROP TRIGGER broken ON job_events; DROP FUNCTION broken",
            "no (SQLSTATE 42501)",
        ),
        (
            format!("{refused}; {unwritten}"),
            "DROP TRIGGER refused ON jobs; DROP TRIGGER broken ON dead_letters",
            "nor there (SQLSTATE P0001)",
        ),
    ];
    for (number, (break_it, mend_it, said)) in (0..).zip(cases) {
        execute(&stack, &break_it).await;
        let id = format!("job-{number}");
        accept(&stack, status(&id, "queued")).await;
        stopped(&stack, "ACK-107").await;
        let reason = format!(
            "ACK-107: the database fails in the same way again and again, after {number}: {said}"
        );
        let row = async || partitions(&db).await.remove(0);
        if number == 0 {
            // It stays over the attempts that follow, although the stream is in order.
            let epoch = row().await.epoch;
            let is_tried = async || row().await.epoch > epoch + 1;
            stack.wait_until("it is tried again, twice", SOON, is_tried).await;
        }
        let now = row().await;
        assert_eq!((now.applied_seq, now.stopped_reason.as_ref()), (number, Some(&reason)));
        let output = overview(&stack, 1).await;
        assert!(output.contains(&format!("partition 00 is stopped: {reason}")), "{output}");
        let labels = [("partition", "00"), ("code", "ACK-107")];
        let shown =
            async || series(stack.worker.ops, "ackline_worker_partition_stopped", &labels).await;
        stack.wait_until("the metric says so", SOON, async || shown().await == 1.0).await;
        let accept_it = ackline(&stack, &["partitions", "accept", "0", "--yes"]);
        let (code, output) = run(&stack, &accept_it).await;
        let refusal = "the database is the cause, and nothing of the stream is missing";
        assert!(code == 1 && output.contains(refusal), "{output}");

        execute(&stack, mend_it).await;
        wait_for_status(&stack, &db, &id, Status::Queued).await;
        assert_eq!(row().await.stopped_reason, None);
        stack.wait_until("the metric is over it", SOON, async || shown().await == 0.0).await;
        overview(&stack, 0).await;
    }
    assert!(dead_letters(&db).await.is_empty());
    assert_audited(&stack).await;
}

/// A small file system of its own. It is gone when this is dropped, also in a panic.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// For the user whom PostgreSQL runs as. None if nothing can be mounted here.
    fn mount(user: Option<(u32, u32)>) -> Option<Self> {
        let (uid, gid) = user?;
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size=4m,mode=0700,uid={uid},gid={gid}");
        let mounting = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status();
        mounting.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is still running has files open there.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_full_disk_is_named_and_buries_nothing() {
    let stack = stack(Db::Postgres).await;
    let Some(disk) = SmallDisk::mount(stack.postgres.as_ref().unwrap().user().unwrap()) else {
        println!("not run: only root can mount a small file system");
        return;
    };
    let db = stack.db().await.unwrap();
    let location = disk.0.path().display();
    execute(&stack, &format!("CREATE TABLESPACE small LOCATION '{location}'")).await;
    execute(&stack, "ALTER TABLE job_events SET TABLESPACE small").await;
    execute(&stack, "CREATE TABLE filler (text text) TABLESPACE small").await;
    let fill = "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 500)";
    while db.execute_unprepared(fill).await.is_ok() {}
    // What is left of the last block is soon used up.
    for n in 0..8 {
        let failed = json!({
            "job_id": format!("job-{n}"), "status": "failed", "error": incompressible(4000),
        });
        accept(&stack, failed.to_string()).await;
    }
    stopped(&stack, "ACK-107").await;
    let reason = partitions(&db).await.remove(0).stopped_reason.unwrap();
    assert!(reason.contains("No space left on device (SQLSTATE 53100)"), "{reason}");
    overview(&stack, 1).await;
    execute(&stack, "DROP TABLE filler").await;
    wait_until_applied(&stack, &db).await;
    assert_eq!(partitions(&db).await.remove(0).stopped_reason, None);
    assert!(dead_letters(&db).await.is_empty());
    assert_eq!(jobs(&db).await.len(), 8);
    assert_audited(&stack).await;
}
