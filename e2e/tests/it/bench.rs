//! `make bench`, as short as it can be.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::process::Program;
use e2e::tools;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// Runs these parts with next to nothing to do: the parts of which it has figures, and the number of
/// its targets.
async fn measured(parts: &str) -> (BTreeSet<String>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let program = Program::new("bench", tools::binary("bench").unwrap(), dir.path())
        .env("ONLY", parts)
        .env("EVENTS", "3000")
        .env("JOBS", "2000")
        .env("WORKERS", "5")
        .env("ROUND", "0.02")
        .env("IDLE", "1")
        .env("JSON", &json);
    let mut process = program.start().unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert!(status.success(), "{}", process.log().tail(20));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let figures = report["figures"].as_array().unwrap();
    for figure in figures {
        let value = figure["value"].as_f64().unwrap();
        // In next to no time next to nothing may have been used.
        let may_be_zero = ["% of a core", "us a callback", "a minute", "a second", "KiB a second"];
        assert!(value > 0.0 || may_be_zero.iter().any(|unit| figure["unit"] == *unit), "{figure}");
    }
    let parts = figures.iter().map(|figure| figure["part"].as_str().unwrap().to_owned());
    (parts.collect(), report["targets"].as_array().unwrap().len())
}

#[tokio::test]
async fn a_backlog_is_measured() {
    let parts = ["backlog, PostgreSQL", "backlog, SQLite"].map(str::to_owned);
    assert_eq!(measured("backlog").await, (parts.into(), 2));
}

/// Every part but `partitions`, which starts ten brokers.
#[tokio::test]
#[ignore = "long: make test-bench"]
async fn everything_is_measured() {
    let (parts, targets) = measured("accept,apply,latency,backlog,idle,list,workers").await;
    let expected = [
        "accept",
        "apply, PostgreSQL",
        "apply, SQLite",
        "backlog, PostgreSQL",
        "backlog, SQLite",
        "idle, PostgreSQL",
        "idle, SQLite",
        "latency",
        "list, PostgreSQL",
        "list, SQLite",
        "workers, 4",
        "workers, 5",
    ];
    assert!(parts.iter().eq(expected), "{parts:?}");
    assert_eq!(targets, 12);
}

#[tokio::test]
async fn a_part_that_there_is_not_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new("bench", tools::binary("bench").unwrap(), dir.path());
    let mut process = program.env("ONLY", "accept,all").start().unwrap();
    assert!(!process.wait(LIMIT).await.unwrap().success());
    assert!(process.log().text().contains("[possible values: accept,"), "{}", process.log().text());
}
