//! A worker that crashes and comes back, and what it leaves behind if it does not.

use chrono::TimeDelta;
use e2e::stack::{Db, Stack};
use sea_orm::{ActiveValue::Set, DatabaseConnection, EntityTrait, QueryOrder};
use worker::entity::worker;

use crate::expect::*;

async fn workers(db: &DatabaseConnection) -> Vec<String> {
    let rows = worker::Entity::find().order_by_asc(worker::Column::Name).all(db).await.unwrap();
    rows.into_iter().map(|row| row.name).collect()
}

on_each_database!(a_worker_forgets_those_that_are_long_dead);

/// With a lease of an hour, ten of them without a word are the end of a row.
async fn a_worker_forgets_those_that_are_long_dead(db: Db) {
    let mut stack = Stack::builder().db(db).env("LEASE", "1h").start().await.unwrap();
    let database = stack.db().await.unwrap();
    assert_eq!(workers(&database).await, ["worker"]);
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    assert!(workers(&database).await.is_empty(), "who ends in order leaves no row");

    for (name, hours_ago) in [("long-dead", 11), ("silent", 9), ("alive", -1)] {
        let row = worker::ActiveModel {
            id: Set(name.to_owned()),
            name: Set(name.to_owned()),
            alive_since: Set(now() - TimeDelta::hours(12)),
            alive_until: Set(now() - TimeDelta::hours(hours_ago)),
        };
        worker::Entity::insert(row).exec_without_returning(&database).await.unwrap();
    }
    stack.start_worker().await.unwrap();
    stack
        .wait_until("the row of the long dead is removed", SOON, async || {
            !workers(&database).await.contains(&"long-dead".to_owned())
        })
        .await;
    assert_eq!(workers(&database).await, ["alive", "silent", "worker"]);
}
