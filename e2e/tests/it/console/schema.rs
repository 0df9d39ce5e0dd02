//! The API does what its OpenAPI document says.

use e2e::schemathesis::Api;
use e2e::stack::{Db, Stack};

use super::base;
use crate::expect::*;

#[tokio::test]
async fn the_api_is_as_its_document_says() {
    is_as_its_document_says(&["--include-path", "/api/v1/jobs"], 1, 20).await;
}

#[tokio::test]
#[ignore = "long: make test-console"]
async fn every_operation_of_the_api_is_as_its_document_says() {
    is_as_its_document_says(&[], 9, 500).await;
}

/// Looks at so many operations, those that these arguments leave, with more requests than this.
async fn is_as_its_document_says(args: &[&str], operations: u64, cases: u64) {
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

    let base = base(&stack);
    let document = format!("{base}/api/v1/openapi.json");
    // A stream has no end that could be waited for; `console::stream` reads it. Nor is a job that
    // nobody has heard of waited for, again and again.
    let report = Api::new(document, base)
        .args(["--exclude-path", "/api/v1/stream"])
        .settle("GET /api/v1/jobs/{id}", "wait", "10ms")
        .args(args)
        .check(stack.dir())
        .await
        .unwrap();
    assert_eq!(report.operations, operations);
    assert!(report.cases > cases, "{report:?}");
    assert!(report.warnings.is_empty(), "{report:?}");
}
