//! `make soak`, as short as it can be.

use std::time::Duration;

use e2e::soak::{self, Fault};

async fn loses_and_repeats_nothing(faults: &[Fault]) {
    let dir = tempfile::tempdir().unwrap();
    let soak = soak::run(dir.path(), 2, faults, Duration::ZERO, |line| println!("{line}"));
    let outcome = soak.await.unwrap();
    println!("{outcome}");
    assert!(outcome.findings.is_empty());
    assert!(outcome.accepted > 0);
    assert!(outcome.faults.iter().eq(faults.iter().map(|fault| (fault, &1))));
}

#[tokio::test]
async fn a_soak_in_faults_of_each_part_loses_and_repeats_nothing() {
    let faults = [Fault::KillWorker, Fault::KillIngress, Fault::KillBroker, Fault::KillDatabase];
    loses_and_repeats_nothing(&faults).await;
}

#[tokio::test]
#[ignore = "long: make test-faults"]
async fn a_soak_in_faults_of_every_kind_loses_and_repeats_nothing() {
    loses_and_repeats_nothing(&Fault::ALL).await;
}
