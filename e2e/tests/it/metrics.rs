//! What both programs show to Prometheus, and what asks for it: alerts, a dashboard, a table for
//! people.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use e2e::stack::Stack;
use e2e::tools::{promtool, workspace};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use worker::entity::job::Status;

use crate::expect::*;

const RULES: &str = "deploy/prometheus/ackline.rules.yml";
const DASHBOARD: &str = "deploy/grafana/ackline.json";
const RUNBOOK: &str = "docs/OPERATIONS.md";

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
    wait_until_looked(&stack, 4).await;
    for page in pages(&stack).await {
        assert!(page.contains("# TYPE ackline_"), "{page}");
        assert_eq!(complaints(&page).await, "");
    }
    // It would have some about this.
    let bad = "# TYPE bad_seconds_count counter\nbad_seconds_count 1\n";
    assert_ne!(complaints(bad).await, "");
}

#[tokio::test]
async fn senders_add_no_series() {
    let stack = Stack::builder().partitions(2).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let speak = async |name: &str| {
        let queued = json!({
            "job_id": name, "status": "queued", "agent_id": name, "region": name, "event_id": name,
        });
        accept(&stack, queued.to_string()).await;
        // Ignored: it is a duplicate.
        accept(&stack, queued.to_string()).await;
        accept(&stack, heartbeat(name)).await;
        let failed = json!({
            "job_id": name, "status": "failed", "workflow_run_id": name, "error": name,
            "failed_step": name,
        });
        accept(&stack, failed.to_string()).await;
        // Ignored: it is too late.
        accept(&stack, heartbeat(name)).await;
        let unknown = json!({ "job_id": name, "status": name }).to_string();
        assert_eq!(stack.post(unknown).await.unwrap().status, 400);
        let signature = [("x-signature", name)];
        assert_eq!(stack.ingress.post(&signature, "{}").await.unwrap().status, 401);
        for server in [stack.ingress.addr, stack.worker.ops] {
            let answer = e2e::http::get(server, &format!("/{name}")).await.unwrap();
            assert_eq!(answer.status, 404);
        }
    };
    let after = async |jobs: u64| {
        wait_until_applied(&stack, &db).await;
        wait_until_looked(&stack, jobs).await;
        pages(&stack).await.map(|page| series(&page))
    };
    // Some in each partition: the one without a message does not show whether it is stopped.
    for n in 0..8 {
        speak(&format!("first-{n}")).await;
    }
    let before = after(8).await;
    for n in 0..40 {
        speak(&format!("another-{n}")).await;
    }
    for (before, now) in before.iter().zip(&after(48).await) {
        let changed: Vec<_> = now.symmetric_difference(before).collect();
        assert!(changed.is_empty(), "{changed:?}");
        assert!(now.len() < 150, "{}", now.len());
    }
}

/// What ingress and the worker show.
async fn pages(stack: &Stack) -> [String; 2] {
    let page = async |ops| e2e::http::get(ops, "/metrics").await.unwrap().text();
    [page(stack.ingress.ops).await, page(stack.worker.ops).await]
}

/// Waits until the worker has seen so many jobs, and shows all that it then sees.
async fn wait_until_looked(stack: &Stack, jobs: u64) {
    stack
        .wait_until("the worker has counted the jobs", SOON, async || {
            let [_, page] = pages(stack).await;
            let counts = page.lines().filter(|line| line.starts_with("ackline_worker_jobs{"));
            let counted = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            counted.sum::<u64>() == jobs && page.contains("ackline_worker_stream_bytes{")
        })
        .await;
}

/// The series of a page: their names and labels, without their values.
fn series(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// The names in a text that begin like those of ours.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.match_indices("ackline_")
        .map(|(at, _)| text[at..].split(|c| !is_part(c)).next().unwrap_or_default().to_owned())
        .collect()
}

/// Takes off what Prometheus adds to the name of a histogram, if there is one of the rest.
fn metric(name: &str, shown: &BTreeSet<String>) -> String {
    let bare = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    bare.filter(|bare| shown.contains(*bare)).unwrap_or(name).to_owned()
}

/// The metrics of both programs: what is a whole string in the sources, and no cookie's name.
fn shown() -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for folder in ["ingress/src", "worker/src", "shared/src"] {
        for file in walk(&workspace().join(folder)) {
            let source = fs::read_to_string(file).unwrap_or_default();
            let names = names(&source).into_iter();
            shown.extend(names.filter(|name| source.contains(&format!("\"{name}\""))));
        }
    }
    assert!(shown.remove("ackline_session"));
    assert!(shown.len() >= 30, "{shown:?}");
    shown
}

fn read(file: &str) -> String {
    fs::read_to_string(workspace().join(file)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

/// Each panel's title, and what it asks for.
fn panels(dashboard: &Value) -> Vec<(&str, Vec<&str>)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let asks = |panel: &'_ Value| panel["type"] != "row";
    panels
        .iter()
        .filter(|panel| asks(panel))
        .map(|panel| {
            let targets = panel["targets"].as_array().unwrap().iter();
            let expressions = targets.map(|target| target["expr"].as_str().unwrap());
            (panel["title"].as_str().unwrap(), expressions.collect())
        })
        .collect()
}

#[test]
fn what_is_asked_for_is_shown_and_what_is_shown_is_asked_for() {
    let shown = shown();
    let of = |text: &str| -> BTreeSet<String> {
        names(text).iter().map(|name| metric(name, &shown)).collect()
    };
    let dashboard = dashboard();
    let expressions: Vec<_> = panels(&dashboard).into_iter().flat_map(|(_, asked)| asked).collect();
    let (alerts, panels) = (of(&read(RULES)), of(&expressions.join("\n")));
    assert!(alerts.len() >= 12, "{alerts:?}");
    let asked: BTreeSet<_> = alerts.union(&panels).cloned().collect();
    let unknown: Vec<_> = asked.difference(&shown).collect();
    assert!(unknown.is_empty(), "nobody shows {unknown:?}");
    let unasked: Vec<_> = shown.difference(&asked).collect();
    assert!(unasked.is_empty(), "neither an alert nor the dashboard asks for {unasked:?}");
    let told = of(&read(RUNBOOK));
    let untold: Vec<_> = shown.difference(&told).collect();
    assert!(untold.is_empty(), "{RUNBOOK} does not say what {untold:?} means");
}

#[tokio::test]
async fn the_dashboard_asks_in_promql() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    assert!(panels.len() > 20, "{}", panels.len());
    let rules: Vec<_> = panels
        .iter()
        .flat_map(|(title, asked)| asked.iter().map(move |expression| (title, expression)))
        .enumerate()
        .map(|(n, (title, expression))| {
            let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
            assert!(!expression.contains('$'), "{title}: {expression}");
            json!({ "record": format!("expression:{n}"), "expr": expression })
        })
        .collect();
    // JSON is YAML, too.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
    let (is_sound, said) = check_rules(&rules).await;
    assert!(is_sound, "{said}");
    let (is_sound, said) = check_rules(&rules.replacen("sum(", "sum((", 1)).await;
    assert!(!is_sound, "{said}");
}

/// Whether promtool takes these rules, and what it says.
async fn check_rules(rules: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    let mut promtool = Command::new(promtool().unwrap());
    let output = promtool.args(["check", "rules"]).arg(&file).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_dashboard_belongs_to_no_instance_of_grafana() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|one| one["name"] == "datasource" && one["type"] == "datasource"));
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        for source in targets.iter().chain([panel]).map(|one| &one["datasource"]["uid"]) {
            assert_eq!(source, "${datasource}", "{title}");
        }
    }
}

#[test]
fn every_alert_names_a_section_of_the_runbook() {
    let runbook = read(RUNBOOK);
    // As GitHub makes anchors of headings.
    let anchor = |heading: &str| -> String {
        let lower = heading.to_lowercase().replace(' ', "-");
        lower.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
    };
    let headings = runbook.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<_> =
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect();
    let rules = read(RULES);
    let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 20, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let named = alert.split_once("runbook: ").map(|(_, rest)| rest.lines().next().unwrap());
        let section = named.and_then(|named| named.strip_prefix(RUNBOOK)?.strip_prefix('#'));
        assert!(section.is_some_and(|section| anchors.contains(section)), "{name}: {named:?}");
        assert!(runbook.contains(&format!("| {name} |")), "{RUNBOOK} does not list {name}");
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
