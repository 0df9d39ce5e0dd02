//! With the roles of deploy/postgres/roles.sql everything works that docs/OPERATIONS.md lets each of them do, and nothing
//! else.

use e2e::load::Load;
use e2e::stack::{Db, Stack};
use e2e::tools::workspace;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

use crate::expect::*;

const OWNER: &str = "keeper";
const WORKER: &str = "ackline_worker";
const READER: &str = "ackline_reader";
const SCHEMA_CHANGES: [&str; 9] = [
    "CREATE TABLE more (id int)",
    "CREATE TEMPORARY TABLE more (id int)",
    "CREATE INDEX more ON jobs (region)",
    "CREATE SCHEMA more",
    "ALTER TABLE jobs ADD more int",
    "DROP TABLE jobs",
    "TRUNCATE jobs",
    "DELETE FROM seaql_migrations",
    "SET ROLE keeper",
];

/// An address of this database for this role.
fn url(stack: &Stack, role: &str, database: &str) -> String {
    format!("postgres://{role}@{}/{database}", stack.postgres.as_ref().unwrap().address())
}

async fn connect(stack: &Stack, role: &str, database: &str) -> DatabaseConnection {
    Database::connect(url(stack, role, database)).await.unwrap()
}

/// A command of `ackline` by this role.
async fn ackline_by(stack: &Stack, role: &str, database: &str, args: &[&str]) -> (i32, String) {
    run(stack, &ackline(stack, args).env("DATABASE_URL", url(stack, role, database))).await
}

async fn succeeds(stack: &Stack, role: &str, database: &str, args: &[&str]) -> String {
    let (code, text) = ackline_by(stack, role, database, args).await;
    assert_eq!(code, 0, "{args:?} by {role}: {text}");
    text
}

/// An empty database of the owner's, who is no superuser.
async fn create(stack: &Stack, database: &str) {
    let create = format!(
        "CREATE DATABASE {database} OWNER {OWNER} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
    );
    stack.postgres.as_ref().unwrap().psql(&create).await.unwrap();
}

async fn grant(stack: &Stack, database: &str) {
    let file = workspace().join("deploy/postgres/roles.sql");
    let owner = format!("--set=owner={OWNER}");
    let passwords = [("WORKER_PASSWORD", "it's the worker's"), ("READER_PASSWORD", "the reader's")];
    let postgres = stack.postgres.as_ref().unwrap();
    postgres.psql_file(database, &file, &[&owner], &passwords).await.unwrap();
}

async fn is_denied(db: &DatabaseConnection, statement: &str) {
    let error = db.execute_unprepared(statement).await.err();
    let error = error.unwrap_or_else(|| panic!("{statement} is allowed")).to_string();
    let is_for_want_of_rights =
        error.contains("permission denied") || error.contains("must be owner");
    assert!(is_for_want_of_rights, "{statement}: {error}");
}

async fn load(stack: &Stack, db: &DatabaseConnection, prefix: &str) {
    let mut load = Load::new(stack.ingress.addr, stack.secret(), 20);
    load.prefix = prefix.to_owned();
    load.max_tries = 400;
    assert_eq!(load.start().finish().await.unwrap().accepted(), 200);
    wait_until_applied(stack, db).await;
}

#[tokio::test]
async fn each_role_can_do_its_work_and_nothing_else() {
    let mut stack =
        Stack::builder().db(Db::Postgres).partitions(2).env("LEASE", "2s").start().await.unwrap();
    stack.worker.process.terminate(SOON).await.unwrap();
    let postgres = stack.postgres.as_ref().unwrap();
    postgres.psql(&format!("CREATE ROLE {OWNER} LOGIN CREATEDB")).await.unwrap();
    create(&stack, "ours").await;
    succeeds(&stack, OWNER, "ours", &["migrate"]).await;
    grant(&stack, "ours").await;
    // Doing it again changes nothing.
    grant(&stack, "ours").await;
    let has_password = format!(
        "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'SCRAM%' AND rolname IN ('{WORKER}', '{READER}')"
    );
    assert_eq!(postgres.psql(&has_password).await.unwrap().lines().count(), 2);

    let worker_url = url(&stack, WORKER, "ours");
    let _worker = stack.start_worker_with(&[("DATABASE_URL", &worker_url)], &[]).await.unwrap();
    let worker = connect(&stack, WORKER, "ours").await;
    load(&stack, &worker, "first").await;
    succeeds(&stack, WORKER, "ours", &["audit"]).await;
    for statement in SCHEMA_CHANGES {
        is_denied(&worker, statement).await;
    }

    // What the runbook gives to the owner, and to the worker's role.
    succeeds(&stack, OWNER, "ours", &["migrate"]).await;
    let resize = ["partitions", "resize", "3", "--delete-old", "--yes"];
    succeeds(&stack, OWNER, "ours", &resize).await;
    load(&stack, &worker, "second").await;
    let pruned = succeeds(&stack, WORKER, "ours", &["prune", "--older-than", "1ms"]).await;
    assert!(pruned.contains("20 jobs with "), "{pruned}");
    succeeds(&stack, WORKER, "ours", &["status"]).await;
    succeeds(&stack, WORKER, "ours", &["partitions", "list"]).await;
    succeeds(&stack, WORKER, "ours", &["audit"]).await;

    // A later migration, by the owner.
    let owner = connect(&stack, OWNER, "ours").await;
    owner.execute_unprepared("CREATE TABLE later (id int PRIMARY KEY)").await.unwrap();
    worker.execute_unprepared("INSERT INTO later VALUES (1)").await.unwrap();
    worker.execute_unprepared("DELETE FROM later").await.unwrap();

    let reader = connect(&stack, READER, "ours").await;
    for statement in ["SELECT * FROM jobs", "SELECT * FROM job_events"] {
        assert!(reader.execute_unprepared(statement).await.unwrap().rows_affected() > 0);
    }
    for statement in [
        "SELECT 1 FROM dead_letters",
        "SELECT 1 FROM partitions",
        "SELECT 1 FROM later",
        "UPDATE jobs SET region = 'x'",
        "DELETE FROM job_events",
        "INSERT INTO job_events SELECT * FROM job_events",
        "SELECT 1 FROM jobs FOR UPDATE",
    ]
    .into_iter()
    .chain(SCHEMA_CHANGES)
    {
        is_denied(&reader, statement).await;
    }

    // A rebuild makes the tables, which only the owner can.
    create(&stack, "rebuilt").await;
    let rebuild = ["rebuild", "--partial"];
    let (code, text) = ackline_by(&stack, WORKER, "rebuilt", &rebuild).await;
    assert!(code != 0 && text.contains("permission denied"), "{text}");
    succeeds(&stack, OWNER, "rebuilt", &rebuild).await;
    grant(&stack, "rebuilt").await;
    succeeds(&stack, WORKER, "rebuilt", &["audit"]).await;
}
