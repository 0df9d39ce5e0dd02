//! `make bench`, as short as it can be: every part but `partitions`, which starts ten brokers, runs
//! and measures something.

use std::collections::HashSet;
use std::time::Duration;

use e2e::process::Program;
use e2e::tools;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// Runs these parts with next to nothing to do; their figures.
async fn run(parts: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let program = Program::new("bench", tools::binary("bench").unwrap(), dir.path())
        .env("ONLY", parts)
        .env("EVENTS", "3000")
        .env("JOBS", "2000")
        .env("ROUND", "0.2")
        .env("IDLE", "1")
        .env("JSON", &json);
    let mut process = program.start().unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert!(status.success(), "{}", process.log().tail(20));
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

fn check(report: &Value, parts: &[&str], targets: usize) {
    let figures = report["figures"].as_array().unwrap();
    for figure in figures {
        let value = figure["value"].as_f64().unwrap();
        // In next to no time next to nothing may have been used.
        let may_be_zero = figure["unit"] == "% of a core" || figure["unit"] == "us a callback";
        assert!(value > 0.0 || may_be_zero || figure["unit"] == "a minute", "{figure}");
    }
    let measured: HashSet<_> =
        figures.iter().map(|figure| figure["part"].as_str().unwrap()).collect();
    assert_eq!(measured, parts.iter().copied().collect());
    assert_eq!(report["targets"].as_array().unwrap().len(), targets, "{:#}", report["targets"]);
}

#[tokio::test]
async fn accepting_is_measured() {
    let report = run("accept,latency,idle").await;
    check(&report, &["accept", "latency", "idle, PostgreSQL", "idle, SQLite"], 8);
}

#[tokio::test]
async fn applying_is_measured() {
    let report = run("apply,backlog").await;
    let parts = ["apply, PostgreSQL", "apply, SQLite", "backlog, PostgreSQL", "backlog, SQLite"];
    check(&report, &parts, 5);
}

#[tokio::test]
async fn growth_is_measured() {
    let report = run("growth").await;
    check(&report, &["growth, jobs", "growth, workers", "growth, ingresses"], 1);
}

#[tokio::test]
async fn looking_for_silent_jobs_is_measured() {
    let report = run("sweep").await;
    check(&report, &["sweep, PostgreSQL", "sweep, SQLite"], 0);
}

#[tokio::test]
async fn showing_jobs_is_measured() {
    let report = run("list").await;
    check(&report, &["list, PostgreSQL", "list, SQLite"], 1);
}

#[tokio::test]
async fn a_part_that_there_is_not_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new("bench", tools::binary("bench").unwrap(), dir.path());
    let mut process = program.env("ONLY", "accept,all").start().unwrap();
    assert!(!process.wait(LIMIT).await.unwrap().success());
    assert!(process.log().text().contains("ONLY must be of accept,"), "{}", process.log().text());
}
