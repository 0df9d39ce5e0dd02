//! What both programs show to Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use e2e::stack::Stack;
use e2e::tools::{promtool, workspace};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use worker::entity::job::Status;

use crate::expect::*;

/// What promtool says of a page; nothing when it has no complaint.
async fn complaints(page: &str) -> String {
    let mut promtool = Command::new(promtool().unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).await.unwrap();
    let output = promtool.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[tokio::test]
async fn prometheus_has_no_complaint_about_what_it_is_shown() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let db = stack.db().await.unwrap();
    for job in ["a", "b", "c", "d"] {
        accept(&stack, status(job, "running")).await;
        wait_for_status(&stack, &db, job, Status::Running).await;
    }
    let refused = stack.ingress.post(&[("x-signature", "no")], "{}").await.unwrap();
    assert_eq!(refused.status, 401);
    for ops in [stack.ingress.ops, stack.worker.ops] {
        let page = e2e::http::get(ops, "/metrics").await.unwrap().text();
        assert!(page.contains("# TYPE ackline_"), "{page}");
        assert_eq!(complaints(&page).await, "");
    }
    // It would have some about this.
    let bad = "# TYPE bad_seconds_count counter\nbad_seconds_count 1\n";
    assert_ne!(complaints(bad).await, "");
}

/// The names in a text that begin like ours, without what Prometheus adds to a histogram's.
fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.match_indices("ackline_")
        .map(|(at, _)| text[at..].split(|c| !is_part(c)).next().unwrap_or_default())
        .map(|name| name.strip_suffix("_bucket").unwrap_or(name))
        .collect()
}

#[test]
fn every_metric_that_an_alert_asks_for_is_one_of_ours() {
    let read = |file: &str| fs::read_to_string(workspace().join(file)).unwrap();
    let rules = read("deploy/prometheus/ackline.rules.yml");
    let sources = ["ingress/src", "worker/src"].map(|folder| {
        let files = walk(&workspace().join(folder));
        files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<String>()
    });
    let shown = sources.concat();
    let shown: BTreeSet<_> = names(&shown).into_iter().collect();
    let asked = names(&rules);
    assert!(asked.len() >= 9, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&shown).collect();
    assert!(unknown.is_empty(), "nobody shows {unknown:?}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
