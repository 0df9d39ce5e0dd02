//! The drill of docs/OPERATIONS.md: a dump of the database is put back, and everything that came
//! after it is applied again.

use e2e::deployment::Deployment;
use e2e::load::Load;

use crate::expect::*;

#[tokio::test]
async fn a_dump_is_put_back_and_everything_after_it_is_applied_again() {
    let mut deployment = Deployment::start().await.unwrap();
    let load = |deployment: &Deployment, prefix: &str| {
        let mut load = Load::new(deployment.load_balancer.addr, deployment.stack.secret(), 20);
        load.prefix = prefix.to_owned();
        load
    };
    let running = load(&deployment, "before").start();
    let stack = &deployment.stack;
    stack.wait_until("the load goes on", SOON, async || running.accepted() >= 50).await;
    stack.postgres.as_ref().unwrap().dump("ackline.dump").await.unwrap();
    let mut report = running.finish().await.unwrap();
    report.jobs.extend(load(&deployment, "after").run().await.unwrap().jobs);
    let db = stack.db().await.unwrap();
    wait_until_applied(stack, &db).await;
    let rows = (jobs(&db).await, events(&db).await);
    db.close().await.unwrap();

    // Senders notice nothing: what they send waits in the streams.
    deployment.stop_workers().await.unwrap();
    report.jobs.extend(load(&deployment, "meanwhile").run().await.unwrap().jobs);
    let stack = &deployment.stack;
    stack.postgres.as_ref().unwrap().restore("ackline.dump").await.unwrap();
    let db = stack.db().await.unwrap();
    assert!(events(&db).await.len() < rows.1.len(), "the dump is older");
    deployment.start_workers().await.unwrap();

    let stack = &deployment.stack;
    wait_until_applied(stack, &db).await;
    let is_old = |id: &str| !id.starts_with("meanwhile");
    let mut now = (jobs(&db).await, events(&db).await);
    now.0.retain(|job| is_old(&job.id));
    now.1.retain(|event| is_old(&event.job_id));
    assert_eq!(now, rows);
    assert_exactly_once(&db, &report).await;
    assert_audited(stack).await;
}
