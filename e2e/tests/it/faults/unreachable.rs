//! The database is there, but not for everybody: nobody listens at its address, it takes no writes,
//! or connections to it fall silent.

use std::time::Duration;

use e2e::load::{Load, Report};
use e2e::port::Port;
use e2e::proxy::Proxy;
use e2e::stack::{Db, Stack, Worker};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
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

/// A worker that reaches the database through a proxy, in place of the stack's.
async fn behind_a_proxy(stack: &mut Stack, lease: &str) -> (Proxy, Worker) {
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let proxy = Proxy::start(stack.postgres.as_ref().unwrap().address()).await.unwrap();
    let url = format!("postgres://ackline@{}/postgres", proxy.address());
    let env = [("DATABASE_URL", url.as_str()), ("LEASE", lease)];
    let worker = stack.start_worker_with(&env, &[]).await.unwrap();
    (proxy, worker)
}

/// Waits until the owners have renewed their leases of 2 s for a while: all is well again.
async fn until_settled(stack: &Stack, db: &DatabaseConnection) {
    let ends = async || -> Vec<_> {
        partitions(db).await.into_iter().filter_map(|row| row.lease_until).collect()
    };
    let before = ends().await;
    stack
        .wait_until("the leases are renewed", SOON, async || {
            let later = chrono::TimeDelta::seconds(5);
            let now = ends().await;
            now.len() == 4 && now.iter().all(|end| before.iter().all(|then| *end - then > later))
        })
        .await;
}

/// As when a firewall forgets them, or a machine vanishes: no end hears of the other again.
#[tokio::test]
async fn connections_that_fall_silent_are_replaced_every_time() {
    let mut stack = Stack::builder().db(Db::Postgres).partitions(4).start().await.unwrap();
    let (proxy, worker) = behind_a_proxy(&mut stack, "2s").await;
    let url = format!("postgres://ackline@{}/postgres", proxy.address());
    let env = [("DATABASE_URL", url.as_str()), ("LEASE", "2s")];
    let second = stack.start_worker_with(&env, &[]).await.unwrap();
    let db = stack.db().await.unwrap();
    for round in 0..2 {
        for step in ["before", "after"] {
            let ids: Vec<String> = (0..8).map(|n| format!("{step}-{round}-{n}")).collect();
            for id in &ids {
                accept(&stack, status(id, "queued")).await;
            }
            for id in &ids {
                wait_for_status(&stack, &db, id, Status::Queued).await;
            }
            if step == "before" {
                proxy.silence();
            }
        }
        for worker in [&worker, &second] {
            let shown = format!("/api/v1/jobs/after-{round}-0");
            stack
                .wait_until("the worker is ready, and its console answers", SOON, async || {
                    let asked = e2e::http::get(worker.ops, &shown);
                    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
                    is_ready(worker.ops).await
                        && answer.is_ok_and(|answer| answer.is_ok_and(|page| page.status == 200))
                })
                .await;
        }
        until_settled(&stack, &db).await;
    }
    assert_audited(&stack).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn connections_that_fall_silent_under_load_lose_nothing() {
    let mut stack = Stack::builder().db(Db::Postgres).start().await.unwrap();
    let (proxy, _worker) = behind_a_proxy(&mut stack, "10s").await;
    let db = stack.db().await.unwrap();
    let mut report = Report::default();
    for round in 0..2 {
        let mut load = Load::new(stack.ingress.addr, stack.secret(), 100);
        load.prefix = format!("round-{round}");
        let running = load.start();
        stack.wait_until("the load goes on", SOON, async || running.accepted() >= 300).await;
        proxy.silence();
        report.jobs.extend(running.finish().await.unwrap().jobs);
        // Each time within a minute.
        wait_until_applied(&stack, &db).await;
    }
    assert_all_applied(&stack, &report).await;
}

/// The server processes of a worker, stopped. They go on when this is dropped.
struct Stopped(Vec<Pid>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

/// Stops every server process of the workers at a moment at which none of them holds a lock.
async fn stop_backends(stack: &Stack, db: &DatabaseConnection) -> Stopped {
    let backends = async |condition: &str| -> Vec<i32> {
        let sql = format!("SELECT pid {OURS} {condition}");
        let rows =
            db.query_all_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
        rows.into_iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    };
    stack
        .wait_for("the worker's server processes are idle", SOON, async || {
            let pids: Vec<Pid> = backends("").await.into_iter().filter_map(Pid::from_raw).collect();
            for pid in &pids {
                kill_process(*pid, Signal::STOP).unwrap();
            }
            let stopped = Stopped(pids);
            backends("AND state <> 'idle'").await.is_empty().then_some(stopped)
        })
        .await
}

#[tokio::test]
async fn server_processes_that_stand_still_are_replaced_every_time() {
    let builder = Stack::builder().db(Db::Postgres).partitions(4).env("LEASE", "2s");
    let stack = builder.start().await.unwrap();
    let db = stack.db().await.unwrap();
    let mut stopped = Vec::new();
    for round in 0..2 {
        let [before, after] = ["before", "after"].map(|step| format!("{step}-{round}"));
        accept(&stack, status(&before, "queued")).await;
        wait_for_status(&stack, &db, &before, Status::Queued).await;
        stopped.push(stop_backends(&stack, &db).await);
        accept(&stack, status(&after, "queued")).await;
        wait_for_status(&stack, &db, &after, Status::Queued).await;
        until_settled(&stack, &db).await;
    }
    assert!(stopped.iter().all(|stopped| !stopped.0.is_empty()));
    drop(stopped);
    assert_audited(&stack).await;
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
