//! docker-compose.yml on a container engine, while operators do to it what docs/OPERATIONS.md says.
//! `make compose-test` brings the engine and the images.

mod backup;
mod console;
mod permissions;
mod rolling;
mod settings;

use e2e::check;
use e2e::compose::Deployment;
use sea_orm::DatabaseConnection;
use worker::entity::job::Status;

use crate::expect::*;
use crate::faults::figures::proved;

#[tokio::test]
#[ignore = "needs a container engine: make compose-test"]
async fn one_server() {
    everything(1).await;
}

#[tokio::test]
#[ignore = "needs a container engine: make compose-test"]
async fn three_servers() {
    everything(3).await;
}

async fn everything(nodes: usize) {
    let deployment = Deployment::start(nodes).await.unwrap();
    let db = deployment.db().await.unwrap();
    permissions::each_role_can_do_its_work(&deployment, &db).await;
    permissions::no_role_may_do_what_is_not_its_own(&deployment, &db).await;
    permissions::no_role_but_the_owner_can_change_the_schema(&deployment).await;
    permissions::nobody_finds_whom_it_need_not_reach(&deployment).await;
    permissions::who_shows_no_certificate_of_a_role_is_refused(&deployment).await;
    if nodes > 1 {
        permissions::a_client_can_not_pose_as_a_node(&deployment).await;
    }
    console::is_for_those_who_show_the_token(&deployment).await;

    let others = ["works", "silent", "moved", "curl-0", "curl-1"];
    let mut report = rolling::under_load(&deployment, &db, nodes).await;
    let faults = format!("{nodes} NATS servers, everything was scaled and restarted");
    applied(&deployment, &db).await;
    proved(&db, &report, &faults, &others).await;
    report.jobs.extend(backup::is_put_back(&deployment, &db).await.jobs);
    proved(&db, &report, "a backup was put back", &others).await;

    deployment.run("docker compose exec -T worker ackline audit").await.unwrap();
    backup::is_not_needed_where_the_streams_hold_enough(&deployment).await;
    permissions::nobody_was_refused_and_no_secret_was_shown(&deployment).await;
}

async fn accept(deployment: &Deployment, body: String) {
    let answer = deployment.post(body.clone()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"received":true}"#), "{body}");
}

/// Waits until a job has this status.
async fn reaches(deployment: &Deployment, db: &DatabaseConnection, id: &str, status: Status) {
    let reached = async || job(db, id).await.is_some_and(|job| job.status == status);
    deployment.wait_until(&format!("{id} is {status:?}"), reached).await;
}

/// Waits until every stream is applied to its end, which is returned.
async fn applied(deployment: &Deployment, db: &DatabaseConnection) -> Vec<u64> {
    let client = deployment.operator().await.unwrap();
    let ends = check::stream_ends(client).await.unwrap();
    let is_applied = async || check::is_applied(db, &ends).await.unwrap();
    deployment.wait_until("every stream is applied to its end", is_applied).await;
    ends
}
