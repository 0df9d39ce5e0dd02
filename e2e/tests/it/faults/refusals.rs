//! What does not fit is refused with a word on what to do, and left as it is.

use async_nats::jetstream::{self, Context};
use e2e::load::Load;
use e2e::stack::{Db, Ingress, Stack, address};
use rstest::rstest;
use sea_orm::ConnectionTrait;
use shared::partition::{Layout, Partition};
use shared::stream::PARTITIONS_KEY;

use super::moving::interrupted::killed_at_change;
use crate::expect::*;

/// Runs a command, or the worker, which must refuse, and returns why.
async fn refused(stack: &Stack, args: &[&str]) -> String {
    let program = match args {
        ["ackline-worker", args @ ..] => stack.program("ackline-worker").unwrap().args(args),
        args => ackline(stack, args),
    };
    let (code, why) = run(stack, &program.env("OPS_LISTEN", "127.0.0.1:0")).await;
    assert_eq!(code, 1, "{args:?}: {why}");
    why
}

/// Starts an ingress and waits until it says that it is not ready for this reason.
async fn unready_ingress(stack: &Stack, reason: &str) -> Ingress {
    let program = stack.program("ackline-ingress").unwrap().env("INGRESS_LISTEN", "127.0.0.1:0");
    let (process, listening) = unready(stack, &program, reason).await;
    let address = |field| address(&listening, field).unwrap();
    Ingress { process, addr: address("addr"), ops: address("ops") }
}

#[tokio::test]
async fn processes_refuse_what_migrate_has_not_made() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let empty = stack.dir().join("empty.db");
    let url = format!("sqlite:{}?mode=rwc", empty.display());
    let why = refused(&stack, &["ackline-worker", "--database-url", &url]).await;
    assert!(why.contains("run `ackline migrate`"), "{why}");

    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    jetstream.delete_stream("CALLBACKS-1-00").await.unwrap();
    unready_ingress(&stack, "CALLBACKS-1-00 is missing").await;

    // Nor does migrate begin with what it could not finish.
    name_number(&jetstream, Layout::new(1, 2).partition(1).unwrap(), Some(8)).await;
    let why = refused(&stack, &["migrate"]).await;
    assert!(why.contains("CALLBACKS-1-01 differs"), "{why}");
    assert_eq!(streams(&jetstream).await, [("CALLBACKS-1-01".to_owned(), Some(8), 0)]);
}

#[rstest]
#[case::that_it_knows("ackline.db")]
#[case::of_which_it_knows_nothing("new.db")]
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn migrate_waits_for_a_cluster_that_has_no_majority_yet(#[case] database: &str) {
    let mut stack = Stack::builder().cluster().partitions(2).start().await.unwrap();
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    jetstream.delete_stream("CALLBACKS-1-01").await.unwrap();
    for node in [1, 2] {
        stack.nats.node_mut(node).process.kill9();
    }
    let url = format!("sqlite:{}?mode=rwc", stack.dir().join(database).display());
    let program = ackline(&stack, &["migrate", "--database-url", &url]);
    let mut migrate = stack.spawn(&program).unwrap();
    let log = migrate.log();
    stack.wait_until("it tries again", SOON, async || log.text().contains("trying again: ")).await;
    stack.nats.restart().await.unwrap();
    let status = migrate.wait(SOON).await.unwrap();
    assert!(status.success(), "{}", log.text());
    assert_eq!(streams(&jetstream::new(stack.nats.client().await.unwrap())).await.len(), 2);
}

/// Of five streams that the broker gives, a set of 16 leaves none, so that another number can be
/// chosen; nor does a set whose making was killed stand in the way.
#[tokio::test]
async fn a_set_of_streams_that_can_not_be_made_whole_is_taken_back() {
    let limits = "accounts: { A: { jetstream: { max_streams: 5 }, users: [{ user: a, password: a }] } }\n\
                  no_auth_user: a\n";
    let stack = Stack::builder().partitions(1).nats_config(limits).start().await.unwrap();
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    jetstream.delete_stream("CALLBACKS-1-00").await.unwrap();
    let url = format!("sqlite:{}?mode=rwc", stack.dir().join("new.db").display());
    let migrate =
        |partitions| ["migrate", "--database-url", url.as_str(), "--partitions", partitions];
    let why = refused(&stack, &migrate("16")).await;
    assert!(why.contains("the stream CALLBACKS-1-05 can't be created"), "{why}");
    assert!(streams(&jetstream).await.is_empty());

    assert!(killed_at_change(&stack, &migrate("4"), 3).await);
    stack
        .wait_until("the broker has done what it was asked", SOON, async || {
            streams(&jetstream).await.len() == 3
        })
        .await;
    let (code, text) = run(&stack, &ackline(&stack, &migrate("5"))).await;
    assert_eq!(code, 0, "{text}");
    let made = streams(&jetstream).await;
    assert_eq!(made.len(), 5);
    assert!(made.iter().all(|(_, number, _)| *number == Some(5)), "{made:?}");
    // From now on the number is that of this database.
    let why = refused(&stack, &migrate("4")).await;
    assert!(why.contains("there are 5 partitions, but PARTITIONS says 4"), "{why}");
    let why = refused(&stack, &migrate("16")).await;
    assert!(why.contains("changed with `ackline partitions resize`"), "{why}");
}

#[tokio::test]
async fn migrate_puts_no_empty_stream_in_the_place_of_one_that_was_applied() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let jobs = ["a", "b", "c", "d", "e", "f"];
    for job in jobs {
        accept(&stack, status(job, "queued")).await;
    }
    wait_until_applied(&stack, &db).await;
    let applied = partitions(&db).await;
    assert!(applied.iter().all(|row| row.applied_seq > 0), "each has some: {applied:?}");

    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    jetstream.delete_stream("CALLBACKS-1-01").await.unwrap();
    let why = refused(&stack, &["migrate"]).await;
    let expected = format!(
        "the stream CALLBACKS-1-01 is missing, but the database has applied it up to {}: bring it",
        applied[1].applied_seq
    );
    assert!(why.contains(&expected), "{why}");
    assert_eq!(streams(&jetstream).await.len(), 1, "none was made");
    // One that nothing was ever applied of is made anew.
    let url = format!("sqlite:{}?mode=rwc", stack.dir().join("empty.db").display());
    let (code, text) = run(&stack, &ackline(&stack, &["migrate", "--database-url", &url])).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(streams(&jetstream).await.len(), 2);
}

on_each_database!(a_database_that_needs_a_newer_worker_is_left_alone);

async fn a_database_that_needs_a_newer_worker_is_left_alone(db: Db) {
    let mut stack = Stack::builder().db(db).partitions(2).env("LEASE", "1s").start().await.unwrap();
    let database = stack.db().await.unwrap();
    let take_step = async |name: &str| {
        let step =
            format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{name}', 0)");
        database.execute_unprepared(&step).await.unwrap();
    };
    let load = |stack: &Stack, prefix: &str| {
        let load = Load::new(stack.ingress.addr, stack.secret(), 20);
        Load { prefix: prefix.to_owned(), ..load }.start()
    };

    // What a newer version has added is no concern of this one.
    take_step("m20991231_000098_more").await;
    stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    stack.start_worker().await.unwrap();
    let mut report = load(&stack, "before").finish().await.unwrap();
    wait_until_applied(&stack, &database).await;

    take_step("m20991231_000099_needs_000098_less").await;
    stack.worker.process.kill9();
    let before = partitions(&database).await;
    // Ingress knows nothing of the database, and the streams keep what it accepts.
    let meanwhile = load(&stack, "meanwhile").finish().await.unwrap();
    assert_eq!(meanwhile.accepted(), 200);
    report.jobs.extend(meanwhile.jobs);
    for args in
        [&["ackline-worker"][..], &["migrate"], &["jobs", "list"], &["partitions", "accept", "0"]]
    {
        let why = refused(&stack, args).await;
        for part in ["m20991231_000099_needs_000098_less", "step 98", "run the newer version"] {
            assert!(why.contains(part), "{part} in {why}");
        }
    }
    assert_eq!(partitions(&database).await, before);
    assert_eq!(jobs(&database).await.len(), 20);

    // Brought back, as from a backup, it goes on where it was.
    let take_back = "DELETE FROM seaql_migrations WHERE version LIKE '%_needs_%'";
    database.execute_unprepared(take_back).await.unwrap();
    stack.start_worker().await.unwrap();
    wait_until_applied(&stack, &database).await;
    assert_exactly_once(&database, &report).await;
    assert_audited(&stack).await;
}

/// Lets the metadata of a stream name this number of partitions, or none.
async fn name_number(jetstream: &Context, partition: Partition, number: Option<u16>) {
    let stream = jetstream.get_stream(partition.stream()).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    match number {
        Some(number) => config.metadata.insert(PARTITIONS_KEY.into(), number.to_string()),
        None => config.metadata.remove(PARTITIONS_KEY),
    };
    jetstream.update_stream(config).await.unwrap();
}

/// Every stream's name, number of partitions and end.
async fn streams(jetstream: &Context) -> Vec<(String, Option<u16>, u64)> {
    let mut streams = Vec::new();
    for partition in Layout::new(1, shared::partition::MAX_PARTITIONS).all() {
        let Some(info) = shared::stream::find(jetstream, partition).await.unwrap() else {
            continue;
        };
        let partitions = shared::stream::partitions_of(&info.config);
        streams.push((info.config.name, partitions, info.state.last_sequence));
    }
    streams
}

#[tokio::test]
async fn a_wrong_number_of_partitions_is_refused_everywhere_and_changes_nothing() {
    let mut stack = Stack::builder().partitions(4).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let jetstream = jetstream::new(stack.nats.client().await.unwrap());
    let report = Load::new(stack.ingress.addr, stack.secret(), 20).run().await.unwrap();
    stack.worker.process.kill9();
    let rows = partitions(&db).await;

    let (n, eight) = (Some(4), Some(8));
    let no_metadata = "name ackline-partitions";
    let first = "CALLBACKS-1-00 differs";
    let cases = [
        // What the streams' metadata name; what ingress, the worker and `ackline migrate` say.
        ([n, n, eight, n], ["CALLBACKS-1-02 differs"; 3]),
        ([n, n, None, n], ["CALLBACKS-1-02 differs"; 3]),
        (
            [eight, n, n, n],
            ["CALLBACKS-1-01 differs", first, "there are 8 partitions, but the database has 4"],
        ),
        ([None, n, n, n], [no_metadata, "must be 4 (metadata)", no_metadata]),
        (
            [eight; 4],
            ["CALLBACKS-1-04 is missing", first, "there are 8 partitions, but the database has 4"],
        ),
        (
            [Some(2); 4],
            ["CALLBACKS-1-02 exists", first, "there are 2 partitions, but the database has 4"],
        ),
    ];
    for (metadata, [of_ingress, of_worker, of_migrate]) in cases {
        for (partition, number) in Layout::new(1, 4).all().zip(metadata) {
            name_number(&jetstream, partition, number).await;
        }
        let before = streams(&jetstream).await;
        let why = refused(&stack, &["ackline-worker"]).await;
        assert!(why.contains(of_worker), "{metadata:?}: {why}");
        let why = refused(&stack, &["migrate"]).await;
        assert!(why.contains(of_migrate), "{metadata:?}: {why}");

        let ingress = unready_ingress(&stack, of_ingress).await;
        let body = status("refused", "queued");
        let signature = stack.sign(body.as_bytes());
        let answer = ingress.post(&[("x-signature", &signature)], body).await.unwrap();
        assert_eq!(answer.status, 503, "{metadata:?}");
        assert_eq!(streams(&jetstream).await, before);
        assert_eq!(partitions(&db).await, rows);
    }

    // A database without rows of its own is not filled from such streams, either.
    let url = format!("sqlite:{}?mode=rwc", stack.dir().join("new.db").display());
    let why = refused(&stack, &["migrate", "--database-url", &url]).await;
    assert!(why.contains("CALLBACKS-1-02 exists"), "{why}");

    // The streams are right again, and the database is another one.
    for partition in Layout::new(1, 4).all() {
        name_number(&jetstream, partition, n).await;
    }
    let another = "INSERT INTO partitions (partition, generation, epoch, applied_seq, rules_version, \
                   rules_from_seq, dead_letters_in_row, applied_callbacks) \
                   VALUES (4, 1, 0, 0, 1, 0, 0, 0)";
    db.execute_unprepared(another).await.unwrap();
    let why = refused(&stack, &["ackline-worker"]).await;
    assert!(why.contains("must be 5 (metadata)"), "{why}");
    let why = refused(&stack, &["migrate"]).await;
    assert!(why.contains("there are 4 partitions, but the database has 5"), "{why}");
    db.execute_unprepared("DELETE FROM partitions WHERE partition = 4").await.unwrap();
    assert_eq!(partitions(&db).await, rows);

    stack.start_ingress().await.unwrap();
    stack.start_worker().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_exactly_once(&db, &report).await;
    assert_eq!(report.accepted(), 200);
    assert_audited(&stack).await;
}
