//! The API does what its OpenAPI document says: schemathesis sends what the document allows and what
//! it forbids, and looks at every answer.

use std::path::Path;
use std::time::Duration;

use e2e::process::Program;
use e2e::stack::{Db, Stack};
use e2e::tools;
use serde_json::{Value, json};

use super::{base, json};
use crate::expect::*;

/// Below the limit that a test has.
const LIMIT: Duration = Duration::from_secs(240);

/// Looks at one operation only.
const ONE: [&str; 4] = ["--include-path", "/api/v1/jobs", "--max-examples", "10"];

#[tokio::test]
async fn the_api_is_as_its_document_says() {
    let stack = with_jobs().await;
    let document = json(&stack, "/api/v1/openapi.json", 200).await;
    is_as_its_document_says(&stack, &document, &ONE, 1, 10).await;
}

#[tokio::test]
async fn an_answer_that_is_not_documented_is_found() {
    let stack = with_jobs().await;
    let mut document = json(&stack, "/api/v1/openapi.json", 200).await;
    document["paths"]["/api/v1/jobs"]["get"]["responses"].as_object_mut().unwrap().remove("200");
    let complaint = compare(&stack, &document, &ONE).await.unwrap_err();
    assert!(complaint.contains("Undocumented Content-Type"), "{complaint}");
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn every_operation_of_the_api_is_as_its_document_says() {
    let stack = with_jobs().await;
    let document = json(&stack, "/api/v1/openapi.json", 200).await;
    is_as_its_document_says(&stack, &document, &[], 9, 500).await;
}

async fn with_jobs() -> Stack {
    let db = Db::Postgres;
    let stack = Stack::builder().db(db).partitions(1).start().await.unwrap();
    refuse_poison(&stack, db).await;
    // The names that stand in the document as examples.
    for id in ["discarded", "requeued"] {
        accept(&stack, poison(id)).await;
    }
    for id in ["job-1", "job-2", "job-3"] {
        for one in ["queued", "provisioning", "running"] {
            accept(&stack, status(id, one)).await;
        }
    }
    let database = stack.db().await.unwrap();
    wait_until_applied(&stack, &database).await;
    stack
}

/// Looks at so many operations, those that these arguments leave, with more requests than this.
async fn is_as_its_document_says(
    stack: &Stack,
    document: &Value,
    args: &[&str],
    operations: u64,
    cases: u64,
) {
    let report = compare(stack, document, args).await.unwrap();
    assert_eq!(report["complete"], true, "{report}");
    for which in ["selected", "tested"] {
        assert_eq!(report["operations"][which], operations, "{report}");
    }
    assert!(report["test_cases"]["generated"].as_u64().unwrap() > cases, "{report}");
    // Such as operations that answer 404 to everything.
    let mut warnings = report["warnings"].as_object().unwrap().values();
    assert!(warnings.all(|about| *about == json!([])), "{report}");
}

/// Runs all of schemathesis's phases and checks, with the same requests every time: its report, or
/// what it says of the differences.
async fn compare(stack: &Stack, document: &Value, args: &[&str]) -> Result<Value, String> {
    let dir = tempfile::tempdir_in(stack.dir()).unwrap();
    let [described, report] = ["openapi.json", "report.json"].map(|name| dir.path().join(name));
    std::fs::write(&described, document.to_string()).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/console/schemathesis.toml");
    let mut process = Program::new("schemathesis", tools::python(), dir.path())
        .env("PYTHONPATH", tools::schemathesis().unwrap())
        // Nothing from the folder that it runs in is imported, and no file is left among the tools.
        .args(["-P", "-B", "-m", "schemathesis.cli", "--no-color", "--config-file"])
        .args([&config])
        .args(["run".as_ref(), described.as_os_str()])
        .args(["--url", &base(stack), "--checks", "all", "--generation-deterministic"])
        // A stream has no end that could be waited for; `console::stream` reads it.
        .args(["--max-examples", "50", "--request-timeout", "10"])
        .args(["--exclude-path", "/api/v1/stream", "--report-json-path"])
        .args([&report])
        .args(args)
        .start()
        .unwrap();
    let ended = process.wait(LIMIT).await.unwrap();
    if !ended.success() {
        return Err(process.log().tail(200));
    }
    Ok(serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap())
}
