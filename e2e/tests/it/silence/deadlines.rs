//! Which timeout holds, and for whom.

use e2e::stack::Worker;

use super::*;

async fn gauge(worker: &Worker, status: &str) -> f64 {
    series(worker.ops, "ackline_worker_jobs", &[("status", status)]).await
}

on_each_database!(each_job_has_its_timeout);

async fn each_job_has_its_timeout(db: Db) {
    let stack = impatient(db, "2s").env("QUEUED_TIMEOUT", "4s").start().await.unwrap();
    let rows = stack.db().await.unwrap();
    for (id, body) in [
        ("silent", json!({ "status": "provisioning" })),
        ("patient", json!({ "status": "provisioning", "heartbeat_timeout_s": 3600 })),
        ("hasty", json!({ "status": "provisioning", "heartbeat_timeout_s": 1 })),
        ("beats", json!({ "type": "heartbeat" })),
        ("waits", json!({ "status": "queued" })),
        ("waits long", json!({ "status": "queued", "heartbeat_timeout_s": 1 })),
        ("runs", json!({ "status": "running" })),
        ("fails", json!({ "status": "failed", "error": "no quota" })),
    ] {
        let mut body = body;
        body["job_id"] = id.into();
        accept(&stack, body.to_string()).await;
    }
    for id in ["silent", "hasty", "beats"] {
        let job = wait_until_presumed(&stack, &rows, id).await;
        let since = job.last_heartbeat_at.unwrap_or(job.created_at);
        let since = since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        assert_eq!(job.error, Some(format!("no heartbeat since {since}")));
        assert_eq!((job.finished_at, job.presume_at), (Some(job.updated_at), None));
    }
    for id in ["waits", "waits long"] {
        let job = wait_until_presumed(&stack, &rows, id).await;
        assert!(job.error.unwrap().starts_with("still queued; nothing heard since 20"));
        assert_eq!(outcomes(&rows, id).await.last(), Some(&(Kind::Lost, Effect::Applied)));
    }
    // By now these would have been, too.
    for (id, status) in
        [("patient", Status::Provisioning), ("runs", Status::Running), ("fails", Status::Failed)]
    {
        let job = job(&rows, id).await.unwrap();
        assert!(job.status == status && !is_presumed(&job), "{job:?}");
        assert_eq!(timeline(&rows, id).await.len(), 1);
    }
    let shown = stack.ackline_json(&["jobs", "show", "silent", "--json"]).await.unwrap();
    assert_eq!(shown["events"][1]["kind"], "lost");
    assert_eq!(shown["events"][1]["error"], shown["job"]["error"]);
    let shown = stack.ackline_json(&["partitions", "list", "--json"]).await.unwrap();
    assert!(shown.as_array().unwrap().iter().all(|row| row["watched_since"].is_string()));

    // The metrics agree, sooner or later.
    let worker = &stack.worker;
    stack
        .wait_until("the jobs are counted", SOON, async || {
            let mut counts = Vec::new();
            for status in ["queued", "provisioning", "running", "failed"] {
                counts.push(gauge(worker, status).await);
            }
            counts == [0.0, 1.0, 1.0, 6.0]
        })
        .await;
    let presumed = [("effect", "presumed")];
    assert_eq!(series(worker.ops, "ackline_worker_events_total", &presumed).await, 5.0);
    assert_eq!(metric(worker, "ackline_worker_lost_total").await, 5.0);
    assert!(metric(worker, "ackline_worker_oldest_silence_seconds").await > 0.0);
    assert!(metric(worker, "ackline_worker_sweep_seconds_count").await > 0.0);

    accept(&stack, heartbeat("silent")).await;
    wait_for_status(&stack, &rows, "silent", Status::Provisioning).await;
    let revived = [("effect", "revived")];
    assert_eq!(series(worker.ops, "ackline_worker_events_total", &revived).await, 1.0);
    assert_audited(&stack).await;
}

/// A heartbeat that is held behind a dead letter is a sign of life that nobody has read.
#[tokio::test]
async fn a_job_that_is_held_is_not_presumed_failed() {
    let stack = impatient(Db::Sqlite, "2s").start().await.unwrap();
    let db = stack.db().await.unwrap();
    refuse_poison(&stack, Db::Sqlite).await;
    accept(&stack, status("held", "provisioning")).await;
    accept(&stack, poison("held")).await;
    accept(&stack, heartbeat("held")).await;
    // Both are on one partition or not; one that is presumed shows that there are sweeps on each.
    for id in ["a", "b", "c", "d"] {
        accept(&stack, status(id, "provisioning")).await;
    }
    for id in ["a", "b", "c", "d"] {
        wait_until_presumed(&stack, &db, id).await;
    }
    assert_eq!(outcomes(&db, "held").await, [(Kind::Provisioning, Effect::Applied)]);
    assert_eq!(dead_letters(&db).await.len(), 2);

    accept_poison(&stack, Db::Sqlite).await;
    let place = place(&dead_letters(&db).await[0]);
    stack.ackline_json(&["dead-letters", "requeue", &place, "--json"]).await.unwrap();
    let job = wait_until_presumed(&stack, &db, "held").await;
    assert_eq!(job.heartbeat_count, 1, "what was held came first");
    assert_audited(&stack).await;
}

/// Whoever has the secret can say anything about a job, but not speak as a worker.
#[tokio::test]
async fn nothing_that_a_sender_says_is_an_internal_event() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let db = stack.db().await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    for kind in ["lost", "requeue", "discard"] {
        let event = json!({ "type": kind, "job_id": "a", "witness": [1, 0], "position": [1, 0] });
        let answer = stack.post(event.to_string()).await.unwrap();
        assert_eq!((answer.status, answer.text().contains("Missing status or type")), (400, true));
        // With a status it is a callback with that status.
        let mut event = event;
        event["status"] = "provisioning".into();
        accept(&stack, event.to_string()).await;
    }
    for id in ["internal.1.00", "a internal.1.00", "internal.>"] {
        accept(&stack, status(id, "queued")).await;
        wait_for_status(&stack, &db, id, Status::Queued).await;
    }
    wait_until_applied(&stack, &db).await;
    let outcomes = outcomes(&db, "a").await;
    assert_eq!(outcomes[0], (Kind::Provisioning, Effect::Applied));
    assert_eq!(outcomes[1..], [(Kind::Provisioning, Effect::Unchanged); 3]);
    assert_audited(&stack).await;
}
