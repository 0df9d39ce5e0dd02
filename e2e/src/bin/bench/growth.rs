//! What becomes of the speed as the table, the workers and the ingresses grow in number.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::http_load::{Pace, send};
use e2e::silence_fixture::SilenceFixture;
use e2e::stack::{Db, Stack};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::accept::without_worker;
use crate::apply::{STEPS, applied, apply_all, heartbeat, status, watch};
use crate::callbacks::heartbeats;
use crate::report::Report;
use crate::streams::fill;

const COUNTS: [usize; 3] = [1, 2, 4];
/// Jobs of the table that beat meanwhile.
const BEATING: u64 = 1000;

/// Measures it, with up to so many jobs in the table.
pub(crate) async fn run(
    report: &mut Report,
    most_jobs: u64,
    events: usize,
    round: Duration,
) -> Result<()> {
    report.part("growth, jobs", "half status callbacks of new jobs, half heartbeats of old ones");
    let mut rates = Vec::new();
    for jobs in [most_jobs / 1000, most_jobs / 10, most_jobs] {
        let mut stack = without_worker(Db::Postgres, 1 << 30).await?;
        let database = stack.db().await?;
        SilenceFixture { alive: jobs, ..SilenceFixture::default() }.fill(&database).await?;
        add_events(&database, jobs).await?;
        let expected = fill_both(&stack, jobs, events).await?;
        let seconds = apply_all(&mut stack, &database, expected).await?.total();
        let rate = events as f64 / seconds;
        report.figure(format!("{jobs} jobs in the table"), rate, "callbacks/s");
        rates.push(rate);
        stack.shut_down().await?;
    }
    if let [few, _, many] = rates[..] {
        let fall = 100.0 * (1.0 - many / few);
        report.below("fall of applying from 10^3 to 10^6 jobs, %", fall, 15.0);
    }

    report.part("growth, workers", "the same callbacks, applied by several processes");
    for workers in COUNTS {
        let stack = without_worker(Db::Postgres, 1 << 30).await?;
        let database = stack.db().await?;
        let expected = fill_both(&stack, BEATING, 2 * events).await?;
        let before = applied(&database).await?;
        let begun = Instant::now();
        let starting = (0..workers).map(|_| stack.start_worker_with(&[], &[]));
        let _workers = futures::future::try_join_all(starting).await?;
        let seconds = watch(&database, begun, before, expected).await?.total();
        let workers = format!("{workers} worker{}", if workers == 1 { "" } else { "s" });
        report.figure(workers, (2 * events) as f64 / seconds, "callbacks/s");
    }

    report.part("growth, ingresses", "accepted flat out over 64 connections, the worker stopped");
    let stack = without_worker(Db::Sqlite, 4 << 30).await?;
    let requests = heartbeats(20_000);
    let mut more = Vec::new();
    for ingresses in COUNTS {
        while more.len() + 1 < ingresses {
            more.push(stack.start_ingress_with(&[], &[]).await?);
        }
        let addresses = more.iter().map(|ingress| ingress.addr);
        let targets: Vec<_> = [stack.ingress.addr].into_iter().chain(addresses).collect();
        let outcome = send(&targets, &requests, 64, Pace::AsAnswered(round)).await?;
        let ingresses = format!("{ingresses} ingress{}", if ingresses == 1 { "" } else { "es" });
        report.figure(ingresses, outcome.per_second(), "callbacks/s");
    }
    Ok(())
}

/// Three events for each job of a fixture, at positions that no stream has.
async fn add_events(database: &DatabaseConnection, jobs: u64) -> Result<()> {
    database
        .execute_unprepared(&format!(
            "INSERT INTO job_events (partition, seq, idx, job_id, kind, from_status, to_status, \
             outcome, event_id, workflow_run_id, run_attempt, received_at) \
             SELECT i % 16, -1 - i, n, 'alive-' || i, 'provisioning', 'queued', 'provisioning', \
             'applied', md5(i || '-' || n), '18234567890', 1, clock_timestamp() \
             FROM generate_series(0, {jobs} - 1) AS i, generate_series(1, 3) AS n"
        ))
        .await?;
    database.execute_unprepared("VACUUM ANALYZE").await?;
    database.execute_unprepared("CHECKPOINT").await?;
    Ok(())
}

/// Half of them each; returns how many messages the streams hold.
async fn fill_both(stack: &Stack, jobs: u64, events: usize) -> Result<i64> {
    let half = events / 2;
    let new = (0..half / STEPS).map(|number| format!("job-{number}"));
    let step = (jobs / BEATING).max(1);
    let old = (0..BEATING).map(move |number| format!("alive-{}", number * step));
    let messages = fill(stack, new, 200, STEPS, status).await?;
    Ok(messages + fill(stack, old, 200, half / BEATING as usize, heartbeat).await?)
}
