//! `make soak`, as short as it can be.

use std::time::Duration;

use e2e::soak::{self, Fault};
use rstest::rstest;

#[rstest]
#[case::in_faults_of_workers_and_broker(&[Fault::KillWorker, Fault::KillBroker])]
#[case::in_faults_of_ingress_and_database(&[Fault::KillIngress, Fault::KillDatabase])]
#[ignore = "long: make test-faults"]
#[case::in_faults_of_every_kind(&Fault::ALL)]
#[tokio::test]
async fn a_soak_loses_and_repeats_nothing(#[case] faults: &[Fault]) {
    let dir = tempfile::tempdir().unwrap();
    let soak = soak::run(dir.path(), 2, faults, Duration::ZERO, |line| println!("{line}"));
    let outcome = soak.await.unwrap();
    println!("{outcome}");
    assert!(outcome.findings.is_empty());
    assert!(outcome.accepted > 0);
    assert!(outcome.faults.iter().eq(faults.iter().map(|fault| (fault, &1))));
}
