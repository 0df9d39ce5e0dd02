//! The drill of docs/OPERATIONS.md: a dump of the database is put back, and everything that came
//! after it is applied again.

use e2e::compose::Deployment;
use e2e::load::{Load, Report};
use sea_orm::DatabaseConnection;

use super::applied;
use crate::expect::*;

/// Dumps the database while others write to it.
pub(super) async fn is_made(deployment: &Deployment) {
    let dump = "docker compose exec -T postgres \
                pg_dump --username=ackline --format=custom ackline >ackline.dump";
    deployment.run(dump).await.unwrap();
}

/// Puts the dump back, after which every row is what it was before. Returns what senders sent
/// meanwhile: they notice nothing.
pub(super) async fn is_put_back(deployment: &Deployment, db: &DatabaseConnection) -> Report {
    let rows = (jobs(db).await, events(db).await);
    deployment.run("docker compose stop worker").await.unwrap();
    let mut load =
        Load::new(deployment.published(8080), &deployment.callback_secret().unwrap(), 20);
    load.prefix = "meanwhile".to_owned();
    let report = load.run().await.unwrap();
    let restore = "docker compose exec -T postgres pg_restore --username=ackline --dbname=ackline \
                   --clean --if-exists --single-transaction <ackline.dump";
    deployment.run(restore).await.unwrap();
    assert!(events(db).await.len() < rows.1.len(), "the dump is older");

    deployment.run("docker compose start worker").await.unwrap();
    applied(deployment, db).await;
    let is_old = |id: &str| !id.starts_with("meanwhile");
    let mut now = (jobs(db).await, events(db).await);
    now.0.retain(|job| is_old(&job.id));
    now.1.retain(|event| is_old(&event.job_id));
    assert_eq!(now, rows);
    report
}

/// The way of the runbook without any backup: the streams are folded into an empty database, by the
/// owner.
pub(super) async fn is_not_needed_where_the_streams_hold_enough(deployment: &Deployment) {
    let rebuild = "docker compose exec -T postgres psql --username=ackline postgres \
                      --command 'CREATE DATABASE rebuilt' \
                   && docker compose run --rm --no-deps --entrypoint ackline \
                      --volume \"$PWD/deploy/secrets/postgres-password:/run/owner:ro\" \
                      --env DATABASE_URL=postgres://ackline@postgres:5432/rebuilt \
                      --env DATABASE_PASSWORD_FILE=/run/owner worker rebuild --partial";
    let said = deployment.run(rebuild).await.unwrap();
    assert!(said.contains("rebuilt from "), "{said}");
}
