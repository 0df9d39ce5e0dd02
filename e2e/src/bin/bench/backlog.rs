//! How fast a backlog is applied, audited and rebuilt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::BytesMut;
use chrono::{SecondsFormat, TimeDelta, Utc};
use e2e::process::memory_kib;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use shared::bundle::{self, Metadata};
use shared::partition::Partition;
use tokio::task::JoinSet;

const PARTITIONS: u16 = 16;
/// Queued, provisioning, seven heartbeats, running.
const PER_JOB: usize = 10;
/// Callbacks in a bundle, as a busy ingress makes them.
const PER_BUNDLE: usize = 100;
const LIMIT: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(50);

/// Measures it on both databases.
pub(crate) async fn run(events: usize) -> Result<()> {
    println!("{events} callbacks of {} jobs in bundles of {PER_BUNDLE}", events / PER_JOB);
    println!(
        "{:<12} {:<28} {:>9} {:>12} {:>10}",
        "DATABASE", "STEP", "SECONDS", "EVENTS/S", "PEAK MIB"
    );
    for db in [Db::Postgres, Db::Sqlite] {
        measure(db, events).await?;
    }
    Ok(())
}

async fn measure(db: Db, events: usize) -> Result<()> {
    let mut stack =
        Stack::builder().db(db).partitions(PARTITIONS).stream_max_bytes(1 << 30).start().await?;
    ensure!(stack.worker.process.terminate(LIMIT).await?.success(), "the worker did not end");
    let ends = fill(&stack, events / PER_JOB).await?;
    let show = |step: &str, seconds: f64, peak: Option<u64>| {
        let peak = peak.map_or("-".into(), |kib| (kib / 1024).to_string());
        let rate = events as f64 / seconds;
        println!("{:<12} {step:<28} {seconds:>9.1} {rate:>12.0} {peak:>10}", format!("{db:?}"));
    };

    let begun = Instant::now();
    stack.start_worker().await?;
    let database = stack.db().await?;
    let sum = "SELECT CAST(sum(applied_seq) AS BIGINT) AS applied FROM partitions";
    let sum = Statement::from_string(database.get_database_backend(), sum);
    loop {
        let row = database.query_one_raw(sum.clone()).await?.context("no partitions")?;
        if row.try_get::<i64>("", "applied")? >= ends {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "the backlog is not applied");
        tokio::time::sleep(POLL).await;
    }
    let peak = memory_kib(stack.worker.process.pid(), "VmHWM");
    show("apply the backlog", begun.elapsed().as_secs_f64(), peak);

    let audit = stack.program("worker")?.args(["audit", "--json"]);
    let (seconds, peak, report) = command(&stack, &audit).await?;
    let report: Value = serde_json::from_str(&report)?;
    ensure!(report["clean"] == true, "the audit is not clean: {report}");
    ensure!(report["counts"]["events"] == events, "not everything was audited: {report}");
    show("audit, beside a live worker", seconds, peak);

    let url = match db {
        Db::Sqlite => stack.database_url().replace("ackline.db", "rebuilt.db"),
        Db::Postgres => {
            database.execute_unprepared("CREATE DATABASE rebuilt").await?;
            let (server, _) = stack.database_url().rsplit_once('/').context("no database")?;
            format!("{server}/rebuilt")
        }
    };
    let rebuild = stack.program("worker")?.env("DATABASE_URL", url).args(["rebuild", "--json"]);
    let (seconds, peak, _) = command(&stack, &rebuild).await?;
    show("rebuild", seconds, peak);
    stack.shut_down().await
}

/// Runs a command to its end; how long it took, the most memory that it was seen with, its output.
async fn command(
    stack: &Stack,
    program: &e2e::process::Program,
) -> Result<(f64, Option<u64>, String)> {
    let begun = Instant::now();
    let mut process = stack.spawn(program)?;
    let mut peak = None;
    while process.is_running() {
        peak = memory_kib(process.pid(), "VmHWM").or(peak);
        ensure!(begun.elapsed() < LIMIT, "{} takes too long", process.name());
        tokio::time::sleep(POLL).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let status = process.wait(LIMIT).await?;
    let log = process.log();
    if !status.success() {
        bail!("{} failed: {status}\n{}", process.name(), log.tail(20));
    }
    Ok((seconds, peak, log.stdout()))
}

/// Puts the callbacks into the streams as ingress would; returns how many messages they hold.
async fn fill(stack: &Stack, jobs: usize) -> Result<i64> {
    let jetstream = jetstream::new(stack.nats.client().await?);
    let mut of_partition = vec![Vec::new(); usize::from(PARTITIONS)];
    for job in 0..jobs {
        let id = format!("job-{job}");
        of_partition[usize::from(Partition::of_job(&id, PARTITIONS).number())].push(id);
    }
    let mut filling = JoinSet::new();
    for (partition, ids) in Partition::all(PARTITIONS).zip(of_partition) {
        let jetstream = jetstream.clone();
        filling.spawn(async move { fill_partition(&jetstream, partition, &ids).await });
    }
    let mut messages = 0;
    while let Some(filled) = filling.join_next().await {
        messages += filled??;
    }
    Ok(messages)
}

/// Many jobs are under way at once, each a step further in each round.
async fn fill_partition(
    jetstream: &jetstream::Context,
    partition: Partition,
    ids: &[String],
) -> Result<i64> {
    const AT_ONCE: usize = 200;
    #[expect(clippy::disallowed_methods, reason = "senders have a clock")]
    let begun = Utc::now() - TimeDelta::hours(1);
    let (mut messages, mut count, mut payload) = (0, 0, BytesMut::new());
    for (number, ids) in ids.chunks(AT_ONCE).enumerate() {
        for step in 0..PER_JOB {
            let at = begun + TimeDelta::seconds((number + step) as i64);
            for id in ids {
                let metadata = Metadata {
                    job: id.clone(),
                    key: "bench".into(),
                    received_ms: at.timestamp_millis(),
                    event_id: None,
                    traceparent: None,
                };
                let body = callback(id, step, &at.to_rfc3339_opts(SecondsFormat::Secs, true));
                payload.extend_from_slice(&bundle::encode(&metadata, body.as_bytes()));
                count += 1;
                if count == PER_BUNDLE {
                    publish(jetstream, partition, &mut payload).await?;
                    (messages, count) = (messages + 1, 0);
                }
            }
        }
    }
    if count > 0 {
        publish(jetstream, partition, &mut payload).await?;
        messages += 1;
    }
    Ok(messages)
}

fn callback(id: &str, step: usize, sent_at: &str) -> String {
    let mut body = json!({
        "job_id": id, "event_id": format!("{id}-{step}"), "sent_at": sent_at,
        "workflow_run_id": "18234567890", "run_attempt": 1,
    });
    match step {
        0 => body["status"] = "queued".into(),
        1 => body["status"] = "provisioning".into(),
        step if step == PER_JOB - 1 => body["status"] = "running".into(),
        _ => body["type"] = "heartbeat".into(),
    }
    body.to_string()
}

async fn publish(
    jetstream: &jetstream::Context,
    partition: Partition,
    payload: &mut BytesMut,
) -> Result<()> {
    let mut headers = HeaderMap::new();
    let (name, value) = bundle::VERSION_HEADER;
    headers.insert(name, value);
    let subject = partition.callbacks_subject();
    jetstream.publish_with_headers(subject, headers, payload.split().freeze()).await?.await?;
    Ok(())
}
