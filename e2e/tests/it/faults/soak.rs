//! `make soak`, as short as it can be.

use std::time::Duration;

use e2e::soak::{self, Fault};

#[tokio::test]
async fn a_soak_in_faults_of_every_kind_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let soak = soak::run(dir.path(), 2, Duration::ZERO, |line| println!("{line}"));
    let outcome = soak.await.unwrap();
    println!("{outcome}");
    assert!(outcome.findings.is_empty());
    assert!(outcome.accepted > 0);
    assert!(Fault::ALL.iter().all(|fault| outcome.faults[fault] == 1));
}
