//! After an outage everything looks silent. Nobody is presumed failed for what Ackline itself did
//! not hear.

use std::time::Duration;

use rstest::rstest;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

fn jobs_of_each_partition() -> Vec<String> {
    (0..6).map(|number| format!("job-{number}")).collect()
}

/// Heartbeats that were accepted, but wait in the stream, are signs of life.
#[tokio::test]
async fn a_job_whose_heartbeats_wait_in_the_stream_is_not_failed() {
    let mut stack = impatient(Db::Sqlite, "2s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    let ids = jobs_of_each_partition();
    for id in &ids {
        accept(&stack, status(id, "provisioning")).await;
    }
    wait_until_applied(&stack, &db).await;
    stack.worker.process.kill9();
    // For twice the timeout they beat, and nobody reads it.
    for _ in 0..6 {
        for id in &ids {
            accept(&stack, heartbeat(id)).await;
        }
        tokio::time::sleep(TIMEOUT / 3).await;
    }
    for id in &ids {
        accept(&stack, status(id, "running")).await;
    }
    stack.start_worker().await.unwrap();
    for id in &ids {
        let job = wait_for_status(&stack, &db, id, Status::Running).await;
        assert_eq!(job.heartbeat_count, 6);
        assert_eq!(
            outcomes(&db, id).await,
            [(Kind::Provisioning, Effect::Applied), (Kind::Running, Effect::Applied)]
        );
    }
    assert_audited(&stack).await;
}

/// A sender's heartbeats reach no stream while the broker is away. Once it is back they have a whole
/// timeout to come; only who stays silent is presumed failed.
#[rstest]
#[case::killed(true)]
#[case::frozen(false)]
#[tokio::test]
async fn nobody_is_presumed_failed_before_the_broker_is_back_for_a_whole_timeout(
    #[case] killed: bool,
) {
    let mut stack = impatient(Db::Sqlite, "2s").env("LEASE", "2s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    let ids = jobs_of_each_partition();
    for id in &ids {
        accept(&stack, status(id, "provisioning")).await;
    }
    wait_until_applied(&stack, &db).await;
    if killed {
        stack.nats.kill9()
    } else {
        stack.nats.pause()
    }
    tokio::time::sleep(TIMEOUT * 2).await;
    if killed {
        stack.nats.restart().await.unwrap()
    } else {
        stack.nats.resume()
    }
    // Nothing was presumed on the way, and whoever speaks now is heard first.
    let (beating, silent) = ids.split_at(3);
    stack
        .wait_until("ingress is ready again", SOON, async || is_ready(stack.ingress.ops).await)
        .await;
    for id in beating {
        accept(&stack, heartbeat(id)).await;
    }
    for id in silent {
        let job = wait_until_presumed(&stack, &db, id).await;
        let watched_since = partitions(&db).await[job.partition as usize].watched_since.unwrap();
        assert!(
            job.updated_at.signed_duration_since(watched_since).to_std().unwrap() >= TIMEOUT,
            "presumed at {}, watched since {watched_since}",
            job.updated_at
        );
    }
    for id in beating {
        // It was heard, and may have been silent since.
        let first =
            outcomes(&db, id).await.into_iter().find(|(kind, _)| *kind != Kind::Provisioning);
        assert!(first.is_none_or(|first| first == (Kind::Lost, Effect::Applied)), "{first:?}");
        assert_eq!(job(&db, id).await.unwrap().heartbeat_count, 1);
    }
    assert_audited(&stack).await;
}

/// What one owner has watched counts for the next, if it comes soon.
#[tokio::test]
async fn a_quick_successor_goes_on_watching() {
    let mut stack = impatient(Db::Postgres, "60s").env("LEASE", "1s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    let watched = async || {
        let rows = partitions(&db).await;
        rows.into_iter().map(|row| row.watched_since).collect::<Option<Vec<_>>>()
    };
    let before = stack.wait_for("both are watched", SOON, watched).await;
    let epochs =
        async || -> Vec<i64> { partitions(&db).await.into_iter().map(|row| row.epoch).collect() };
    // A crash, and an orderly end.
    for crash in [true, false] {
        let old = epochs().await;
        if crash {
            stack.worker.process.kill9();
        } else {
            assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
        }
        stack.start_worker().await.unwrap();
        stack
            .wait_until("the successor owns both", SOON, async || {
                epochs().await.iter().zip(&old).all(|(new, old)| new > old)
            })
            .await;
        assert_eq!(watched().await.as_ref(), Some(&before), "crash: {crash}");
    }
    // A lost connection to the broker ends the watch: nobody knows what was not heard.
    stack.nats.kill9();
    stack.nats.restart().await.unwrap();
    stack
        .wait_until("both are watched anew", SOON, async || {
            watched().await.is_some_and(|now| now.iter().zip(&before).all(|(now, old)| now > old))
        })
        .await;
    // So does a long absence.
    let before = watched().await.unwrap();
    stack.worker.process.kill9();
    let long_ago = "UPDATE partitions SET watched_until = watched_until - interval '16 seconds'";
    db.execute_unprepared(long_ago).await.unwrap();
    stack.start_worker().await.unwrap();
    stack
        .wait_until("both are watched anew", SOON, async || {
            watched().await.is_some_and(|now| now.iter().zip(&before).all(|(now, old)| now > old))
        })
        .await;
    assert_audited(&stack).await;
}

async fn is_watched(db: &DatabaseConnection) -> bool {
    partitions(db).await.iter().all(|row| row.watched_since.is_some())
}

/// While no ingress can be heard, a job's silence means nothing.
#[tokio::test]
async fn nobody_is_watched_without_an_ingress() {
    let mut stack = impatient(Db::Sqlite, "8s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    stack.wait_until("both are watched", SOON, async || is_watched(&db).await).await;
    stack.ingress.process.kill9();
    stack
        .wait_until("none is watched", SOON, async || {
            partitions(&db).await.iter().all(|row| row.watched_since.is_none())
        })
        .await;
    let unheard = metric(&stack.worker, "ackline_worker_ingress_unheard_seconds").await;
    assert!(unheard >= 1.0, "{unheard}");
    stack.start_ingress().await.unwrap();
    stack.wait_until("both are watched again", SOON, async || is_watched(&db).await).await;
}

/// Workflows beat against a closed door.
#[tokio::test]
#[ignore = "long: make test-faults"]
async fn an_outage_of_ingress_presumes_nobody_failed() {
    const TIMEOUT: Duration = Duration::from_secs(8);
    let mut stack = impatient(Db::Postgres, "8s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    let ids: Vec<String> = (0..10).map(|number| format!("job-{number}")).collect();
    stack.wait_until("both are watched", SOON, async || is_watched(&db).await).await;
    for id in &ids {
        accept(&stack, status(id, "provisioning")).await;
    }
    stack.ingress.process.kill9();
    tokio::time::sleep(TIMEOUT * 2).await;
    stack.start_ingress().await.unwrap();
    let (beating, silent) = ids.split_at(5);
    for id in beating {
        accept(&stack, heartbeat(id)).await;
    }
    wait_until_applied(&stack, &db).await;
    for id in &ids {
        let job = job(&db, id).await.unwrap();
        assert_eq!((job.status, job.failure), (Status::Provisioning, None), "{id}");
    }
    // From then on silence counts.
    for id in silent {
        wait_until_presumed(&stack, &db, id).await;
    }
    assert_audited(&stack).await;
}
