//! The database is there, but not for everybody: nobody listens at its address, it takes no writes,
//! or connections to it fall silent.

use std::time::Duration;

use e2e::load::Load;
use e2e::port::Port;
use e2e::stack::{Db, Stack};
use rstest::rstest;
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use worker::entity::job::Status;

use crate::expect::*;

const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'ackline-worker'";

#[tokio::test]
async fn that_nobody_listens_is_said_once_with_the_address() {
    let mut stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    let port = Port::lease().unwrap();
    let nobody = port.address();
    let url = format!("postgres://ackline:never-log-this@{nobody}/postgres");
    let cause = format!("{nobody}: Connection refused (os error 111)");
    for command in [&["status"][..], &["audit"], &["migrate"], &["dead-letters", "list"]] {
        let program = ackline(&stack, command).env("DATABASE_URL", &url);
        let (code, output) = run(&stack, &program).await;
        let said = format!("ackline: the database can't be reached (--database-url): {cause}\n");
        assert!(code == 1 && output.contains(&said), "{command:?}: {output}");
        assert_eq!(output.matches("refused").count(), 1, "{command:?}: {output}");
        assert!(!output.contains("timed out") && !output.contains("never-log"), "{output}");
    }

    // A worker that starts, and one that has lost it.
    let program = stack.program("ackline-worker").unwrap().env("DATABASE_URL", &url);
    let mut worker = stack.spawn(&program.env("OPS_LISTEN", "127.0.0.1:0")).unwrap();
    let says = |cause: String| {
        move |line: &str| {
            line.contains("the database can't be reached; trying again") && line.contains(&cause)
        }
    };
    worker.wait_for_line(says(cause), SOON).await.unwrap();
    assert!(worker.terminate(SOON).await.unwrap().success());

    let postgres = stack.postgres.as_mut().unwrap();
    let lost = format!("{}: Connection refused (os error 111)", postgres.address());
    postgres.stop_server().await.unwrap();
    let says_so = |line: &str| line.contains("the leases are not renewed") && line.contains(&lost);
    stack.worker.process.wait_for_line(says_so, SOON).await.unwrap();
    stack.postgres.as_mut().unwrap().restart().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_for_status(&stack, &stack.db().await.unwrap(), "a", Status::Queued).await;
}

/// Makes the database read-only for every new connection, and ends the workers' old ones; or makes
/// it writable again, which no connection hears of that there is.
async fn set_read_only(stack: &Stack, is_read_only: bool) {
    let postgres = stack.postgres.as_ref().unwrap();
    let sql = if is_read_only {
        format!(
            "ALTER DATABASE postgres SET default_transaction_read_only = on; \
             SELECT pg_terminate_backend(pid) {OURS}"
        )
    } else {
        "BEGIN; SET TRANSACTION READ WRITE; \
         ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT"
            .to_owned()
    };
    postgres.psql(&sql).await.unwrap();
}

#[tokio::test]
async fn a_database_that_was_read_only_is_written_soon_after() {
    let stack = Stack::builder().db(Db::Postgres).partitions(4).start().await.unwrap();
    let db = stack.db().await.unwrap();
    for round in 0..2 {
        set_read_only(&stack, true).await;
        let ids: Vec<String> = (0..8).map(|n| format!("job-{round}-{n}")).collect();
        for id in &ids {
            accept(&stack, status(id, "queued")).await;
        }

        stack
            .wait_until("batches are refused", SOON, async || {
                let log = stack.worker.process.log().text();
                log.matches("in a read-only transaction (SQLSTATE 25006)").count()
                    >= 4 * (round + 1)
            })
            .await;
        set_read_only(&stack, false).await;
        let is_applied = async || {
            let jobs = jobs(&db).await;
            ids.iter().all(|id| jobs.iter().any(|job| job.id == *id))
        };
        stack.wait_until("it is written again", Duration::from_secs(20), is_applied).await;
        // Those that read only, and those that were idle, are of the old kind as well.
        accept(&stack, status(&format!("later-{round}"), "queued")).await;
        wait_for_status(&stack, &db, &format!("later-{round}"), Status::Queued).await;
    }
    assert!(dead_letters(&db).await.is_empty());
    assert_audited(&stack).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_database_that_is_read_only_for_a_while_under_load_loses_nothing() {
    let stack = Stack::builder().db(Db::Postgres).start().await.unwrap();
    let running = Load::new(stack.ingress.addr, stack.secret(), 300).start();
    for round in 1..=3 {
        stack
            .wait_until("the load goes on", SOON, async || running.accepted() >= round * 700)
            .await;
        set_read_only(&stack, true).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        set_read_only(&stack, false).await;
    }
    assert_all_applied(&stack, &running.finish().await.unwrap()).await;
}

/// Runs `ackline migrate` on this database, which it must refuse with this text.
async fn assert_not_migrated(stack: &Stack, url: &str, text: &str) {
    let program = ackline(stack, &["migrate"]).env("DATABASE_URL", url);
    let (code, output) = run(stack, &program).await;
    let said =
        format!("ackline: the schema can't be brought up to date: {text}. Nothing was changed\n");
    assert!(code == 1 && output.contains(&said), "{output}");
}

#[tokio::test]
async fn a_database_that_cant_hold_every_text_is_not_migrated() {
    let stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    let postgres = stack.postgres.as_ref().unwrap();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = encoding.to_lowercase();
        let create =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        postgres.psql(&create).await.unwrap();
        let url = format!("postgres://ackline@{}/{name}", postgres.address());
        let text = format!(
            "ACK-307: the encoding of the database is {encoding}, and the texts of callbacks need \
             UTF8: create another one (CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8' LOCALE \
             'C') and name it in DATABASE_URL"
        );
        assert_not_migrated(&stack, &url, &text).await;
        let tables = Database::connect(url).await.unwrap();
        let sql = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        let count = Statement::from_string(DbBackend::Postgres, sql);
        let count: i64 =
            tables.query_one_raw(count).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(count, 0);
    }

    let url = format!("sqlite:{}?mode=rwc", stack.dir().join("wide.db").display());
    let wide = Database::connect(&url).await.unwrap();
    wide.execute_unprepared("PRAGMA encoding = 'UTF-16le'; CREATE TABLE mine (id)").await.unwrap();
    wide.close().await.unwrap();
    let text = "ACK-307: the encoding of the database is UTF-16le, and the texts of callbacks need \
                UTF-8: name a file in DATABASE_URL that does not exist yet, and `ackline migrate` \
                creates it";
    assert_not_migrated(&stack, &url, text).await;
}

#[rstest]
#[case::in_session_mode("session")]
#[case::in_transaction_mode("transaction")]
#[tokio::test]
async fn behind_pgbouncer(#[case] mode: &str) {
    let mut stack = Stack::builder().db(Db::Postgres).partitions(2).start().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let pgbouncer = stack.postgres.as_ref().unwrap().behind_pgbouncer(mode).await.unwrap();
    let url = pgbouncer.url();
    let env = [("DATABASE_URL", url.as_str()), ("LEASE", "2s")];
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "queued")).await;
    let named = "ACK-308: a pooler such as PgBouncer is in between, in a mode that Ackline can't use \
                 (docs/OPERATIONS.md, \\\"The database\\\"): prepared statement ";
    if mode == "session" {
        let mut worker = stack.start_worker_with(&env, &[]).await.unwrap();
        wait_for_status(&stack, &db, "a", Status::Queued).await;
        let audit = ackline(&stack, &["audit"]).env("DATABASE_URL", &url);
        let (code, output) = run(&stack, &audit).await;
        assert!(code == 0, "{output}");
        assert!(worker.process.terminate(SOON).await.unwrap().success());
        assert!(!worker.process.log().text().contains("ACK-308"));
    } else {
        let program = stack.program("ackline-worker").unwrap().envs(env);
        let worker = stack.spawn(&program.env("OPS_LISTEN", "127.0.0.1:0")).unwrap();
        worker.wait_for_line(|line| line.contains(named), SOON).await.unwrap();
    }

    // Without a word about them, PgBouncer takes no settings at the start of a connection.
    let strict = stack.postgres.as_ref().unwrap().behind_strict_pgbouncer().await.unwrap();
    let program = ackline(&stack, &["status"]).env("DATABASE_URL", strict.url());
    let (code, output) = run(&stack, &program).await;
    let said = "in a mode that Ackline can't use (docs/OPERATIONS.md, \"The database\"): unsupported \
                startup parameter";
    assert!(code == 1 && output.contains(said), "{output}");
}
