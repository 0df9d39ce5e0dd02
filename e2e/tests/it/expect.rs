//! What several tests ask of the system.

use std::net::SocketAddr;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, Utc};
use e2e::check;
use e2e::http::{Answer, Client};
use e2e::load::Report;
use e2e::process::{Process, Program};
use e2e::stack::{CALLBACK_PATH, Db, Stack, Worker, address, listening};
use hyper::Method;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, TransactionTrait,
};
use serde_json::{Value, json};
use shared::partition::Partition;
use tokio::task::JoinHandle;
use worker::entity::{dead_letter, job, job_event, partition};

/// Makes two tests of a function: `NAME::on_sqlite` and `NAME::on_postgres`.
macro_rules! on_each_database {
    ($name:ident) => {
        mod $name {
            use e2e::stack::Db;

            #[tokio::test]
            async fn on_sqlite() {
                super::$name(Db::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                super::$name(Db::Postgres).await;
            }
        }
    };
}
pub(crate) use on_each_database;

/// Long enough for a slow machine; nothing waits for it to pass.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A status callback of the older form: no event id, no time.
pub(crate) fn status(job_id: &str, status: &str) -> String {
    json!({ "job_id": job_id, "status": status }).to_string()
}

/// A heartbeat of the older form.
pub(crate) fn heartbeat(job_id: &str) -> String {
    json!({ "job_id": job_id, "type": "heartbeat" }).to_string()
}

/// The first id that begins so and belongs to this partition.
pub(crate) fn id_in(partition: Partition, prefix: &str) -> String {
    let mut ids = (0..).map(|number| format!("{prefix}-{number}"));
    ids.find(|id| partition.layout().of_job(id) == partition).unwrap()
}

/// Posts a callback, which must be accepted.
pub(crate) async fn accept(stack: &Stack, body: impl Into<String>) {
    let body = body.into();
    let answer = stack.post(body.clone()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"received":true}"#), "{body}");
}

/// Posts a callback until it is accepted: ingress may not be connected again yet.
pub(crate) async fn until_accepted(stack: &Stack, body: impl Into<String>) {
    let body = body.into();
    stack
        .wait_until("ingress accepts", SOON, async || {
            stack.post(body.clone()).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
}

/// Posts a callback from a task of its own, because the answer may be long in coming.
pub(crate) fn post_later(stack: &Stack, body: String) -> JoinHandle<anyhow::Result<Answer>> {
    let (mut client, signature) = (Client::new(stack.ingress.addr), stack.sign(body.as_bytes()));
    tokio::spawn(async move {
        let headers = [("x-signature", signature.as_str())];
        client.send(Method::POST, CALLBACK_PATH, &headers, body.into()).await
    })
}

pub(crate) async fn jobs(db: &DatabaseConnection) -> Vec<job::Model> {
    check::jobs(db).await.unwrap()
}

pub(crate) async fn job(db: &DatabaseConnection, id: &str) -> Option<job::Model> {
    job::Entity::find_by_id(id).one(db).await.unwrap()
}

pub(crate) async fn events(db: &DatabaseConnection) -> Vec<job_event::Model> {
    check::events(db).await.unwrap()
}

pub(crate) async fn dead_letters(db: &DatabaseConnection) -> Vec<dead_letter::Model> {
    check::dead_letters(db).await.unwrap()
}

/// A dead letter's position, as commands take it.
pub(crate) fn place(letter: &dead_letter::Model) -> String {
    format!("{:02}/{}/{}", letter.partition, letter.seq, letter.idx)
}

pub(crate) async fn partitions(db: &DatabaseConnection) -> Vec<partition::Model> {
    check::partitions(db).await.unwrap()
}

pub(crate) async fn wait_for_status(
    stack: &Stack,
    db: &DatabaseConnection,
    id: &str,
    status: job::Status,
) -> job::Model {
    stack
        .wait_for(&format!("{id} is {status:?}"), SOON, async || {
            job(db, id).await.filter(|job| job.status == status)
        })
        .await
}

/// The last sequence of every partition's stream.
pub(crate) async fn stream_ends(stack: &Stack) -> Vec<u64> {
    check::stream_ends(stack.nats.client().await.unwrap()).await.unwrap()
}

/// The stream of the first partition.
pub(crate) async fn first_stream(stack: &Stack) -> Stream {
    let jetstream = async_nats::jetstream::new(stack.nats.client().await.unwrap());
    jetstream.get_stream("CALLBACKS-1-00").await.unwrap()
}

/// Waits until every stream is applied to its end.
pub(crate) async fn wait_until_applied(stack: &Stack, db: &DatabaseConnection) {
    let ends = stream_ends(stack).await;
    stack
        .wait_until("every stream is applied to its end", SOON, async || {
            check::is_applied(db, &ends).await.unwrap()
        })
        .await;
}

/// What most faults end with: all that senders know to be accepted is applied, exactly once and in
/// order, and nothing else became of it.
pub(crate) async fn assert_all_applied(stack: &Stack, report: &Report) {
    let db = stack.db().await.unwrap();
    wait_until_applied(stack, &db).await;
    assert_exactly_once(&db, report).await;
    assert!(dead_letters(&db).await.is_empty());
    assert_audited(stack).await;
}

/// Lets every batch that writes to a table of PostgreSQL wait until this is rolled back.
pub(crate) async fn lock_table(db: &DatabaseConnection, table: &str) -> DatabaseTransaction {
    let lock = db.begin().await.unwrap();
    let statement = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    lock.execute_unprepared(&statement).await.unwrap();
    lock
}

/// Waits until somebody waits for this table.
pub(crate) async fn wait_until_blocked(stack: &Stack, table: &str) {
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
    );
    let postgres = stack.postgres.as_ref().unwrap();
    stack
        .wait_until(&format!("somebody waits for {table}"), SOON, async || {
            postgres.psql(&waiting).await.unwrap().trim() != "0"
        })
        .await;
}

/// Every accepted callback of a load has taken effect exactly once, in the order of its job.
pub(crate) async fn assert_exactly_once(db: &DatabaseConnection, report: &Report) {
    assert_load_exactly_once(db, report, &[]).await;
}

/// The same, where a test has other jobs beside the load.
pub(crate) async fn assert_load_exactly_once(
    db: &DatabaseConnection,
    report: &Report,
    others: &[&str],
) {
    let findings = check::exactly_once(db, &report.jobs, others).await.unwrap();
    assert!(findings.is_empty(), "{findings}");
}

/// The sum of a metric over its labels, as a worker's `/metrics` shows it; 0 before it appears.
pub(crate) async fn metric(worker: &Worker, name: &str) -> f64 {
    series(worker.ops, name, &[]).await
}

/// The sum of a metric over all series that have these labels; 0 before there is one.
pub(crate) async fn series(ops: SocketAddr, name: &str, labels: &[(&str, &str)]) -> f64 {
    let page = e2e::http::get(ops, "/metrics").await.unwrap().text();
    let labels: Vec<_> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_meant = series.split('{').next()? == name
            && labels.iter().all(|label| series.contains(label.as_str()));
        is_meant.then(|| value.parse::<f64>().unwrap())
    });
    values.sum()
}

/// Whether a process, which must answer, says that it is ready.
pub(crate) async fn is_ready(ops: SocketAddr) -> bool {
    e2e::http::get(ops, "/readyz").await.unwrap().status == 200
}

pub(crate) fn now() -> DateTime<Utc> {
    #[expect(clippy::disallowed_methods, reason = "a sender has a clock")]
    Utc::now()
}

/// What every fault test ends with: `ackline audit` finds nothing missing, repeated or reordered.
/// Returns its report.
pub(crate) async fn assert_audited(stack: &Stack) -> serde_json::Value {
    stack.ackline_json(&["audit", "--json"]).await.unwrap()
}

/// Makes the database refuse a region, as a constraint of the operators could.
pub(crate) async fn refuse_poison(stack: &Stack, db: Db) {
    let statement = match db {
        Db::Postgres => "ALTER TABLE jobs ADD CONSTRAINT no_poison CHECK (region <> 'poison')",
        Db::Sqlite => {
            "CREATE TRIGGER no_poison BEFORE INSERT ON jobs WHEN NEW.region = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'no poison'); END"
        }
    };
    stack.db().await.unwrap().execute_unprepared(statement).await.unwrap();
}

/// Lets the database accept it again.
pub(crate) async fn accept_poison(stack: &Stack, db: Db) {
    let statement = match db {
        Db::Postgres => "ALTER TABLE jobs DROP CONSTRAINT no_poison",
        Db::Sqlite => "DROP TRIGGER no_poison",
    };
    stack.db().await.unwrap().execute_unprepared(statement).await.unwrap();
}

/// A callback that such a database refuses.
pub(crate) fn poison(job_id: &str) -> String {
    json!({ "job_id": job_id, "status": "queued", "region": "poison" }).to_string()
}

/// `ackline` with these arguments.
pub(crate) fn ackline(stack: &Stack, args: &[&str]) -> Program {
    stack.program("ackline").unwrap().args(args)
}

/// Runs a program to its end: its exit code, and all that it wrote.
pub(crate) async fn run(stack: &Stack, program: &Program) -> (i32, String) {
    let mut process = stack.spawn(program).unwrap();
    let code = process.wait(SOON).await.unwrap().code().unwrap();
    (code, process.log().text())
}

/// Starts a program and waits until it says that it is not ready for this reason. Returns the line
/// that says where it listens, too.
pub(crate) async fn unready(stack: &Stack, program: &Program, reason: &str) -> (Process, Value) {
    let process = stack.spawn(&program.clone().env("OPS_LISTEN", "127.0.0.1:0")).unwrap();
    let line = listening(&process).await.unwrap();
    let ops = address(&line, "ops").unwrap();
    stack
        .wait_until(&format!("{} is not ready: {reason}", process.name()), SOON, async || {
            let answer = e2e::http::get(ops, "/readyz").await.unwrap();
            answer.status == 503 && answer.text().contains(reason)
        })
        .await;
    (process, line)
}
