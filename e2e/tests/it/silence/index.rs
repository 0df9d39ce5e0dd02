//! Looking for silent jobs costs what the silent ones cost, not what all jobs do.

use e2e::plan::Plan;
use e2e::silence_fixture::{MAX, PARTITIONS, SilenceFixture, limits, sweep};
use worker::store::liveness::silent_statement;

use super::*;

on_each_database!(silent_jobs_are_found_by_the_index);

async fn silent_jobs_are_found_by_the_index(db: Db) {
    let mut stack = Stack::builder().db(db).start().await.unwrap();
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let rows = stack.db().await.unwrap();
    let fixture = SilenceFixture { finished: 20_000, alive: 5_000, patient: 1_000, silent: 10 };
    fixture.fill(&rows).await.unwrap();
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        found.extend(sweep(&rows, partition).await.unwrap());
    }
    let silent: Vec<String> =
        (0..fixture.silent).map(|number| format!("silent-{number}")).collect();
    assert_eq!(found, silent);
    let is_by_index = |plan: &Plan| plan.uses("jobs_silence") && !plan.reads_all_of("jobs");
    let statement = silent_statement(0, limits(), MAX);
    let plan = Plan::of(&rows, &statement).await.unwrap();
    assert!(is_by_index(&plan), "{plan:#?}");
    // The check can fail. A connection of its own, because SQLite's others may not know yet.
    rows.execute_unprepared("DROP INDEX jobs_silence").await.unwrap();
    let plan = Plan::of(&stack.db().await.unwrap(), &statement).await.unwrap();
    assert!(!is_by_index(&plan), "{plan:#?}");
}
