//! What senders write is shown as text.

use e2e::browser;
use e2e::stack::Stack;
use rstest::rstest;
use serde_json::json;
use worker::entity::job::Status;

use super::base;
use crate::expect::*;

#[rstest]
#[case::on_narrow_pages(&["phone"])]
#[ignore = "long: make test-console"]
#[case::on_pages_of_every_kind(&["light", "dark", "phone", "still"])]
#[tokio::test]
async fn hostile_strings_are_text(#[case] ways: &[&str]) {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let db = stack.db().await.unwrap();
    let script = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let turned = "ab\u{202e}dc\u{2066}\u{200f}ef";
    let long = format!("{}</pre><script>alert(3)</script>", "x".repeat(4050));
    assert!(long.len() <= 4096);
    let region = "{{7*7}}<svg onload=alert(4)>";
    for (id, error, step) in
        [(script, script, turned), (turned, turned, script), ("long", &long, "../..//evil")]
    {
        let queued =
            json!({ "job_id": id, "status": "queued", "agent_id": script, "region": region });
        accept(&stack, queued.to_string()).await;
        let failed = json!({
            "job_id": id, "status": "failed", "error": error, "failed_step": step,
            "workflow_run_id": "9", "event_id": script,
        });
        accept(&stack, failed.to_string()).await;
        wait_for_status(&stack, &db, id, Status::Failed).await;
    }
    let job = |id: &str| format!("/job?id={}", percent(id));
    let mut paths = vec![
        "/jobs".to_owned(),
        format!("/jobs?search={}", percent(script)),
        job(script),
        job(turned),
        job("long"),
    ];
    if ways.len() > 1 {
        paths.extend(["/", "/dead-letters", "/login"].map(str::to_owned));
    }
    let parameters = json!({ "base": base(&stack), "paths": paths, "ways": ways });
    let seen = browser::run(stack.dir(), "hostile.mjs", &parameters).await.unwrap();
    let marked = "abU+202EdcU+2066U+200Fef";
    for way in ways {
        let seen = &seen[*way];
        let texts: Vec<&str> =
            seen["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        assert!(texts[0].contains(script) && texts[0].contains(marked), "{way}: {}", texts[0]);
        assert!(texts[1].contains(script) && !texts[1].contains("xxxx"), "{way}: {}", texts[1]);
        assert!(texts[2].contains(script) && texts[2].contains(region), "{way}: {}", texts[2]);
        assert!(texts[3].contains(marked) && !texts[3].contains('\u{202e}'), "{way}: {}", texts[3]);
        assert!(texts[4].contains(&long), "{way}: the whole error is there");
        assert_eq!(seen["violations"], json!([]), "{way}");
        assert_eq!((&seen["dialogs"], &seen["foreign"]), (&json!(0), &json!(0)), "{way}");
        assert_eq!(seen["overflow"], json!([]), "{way}: these pages are wider than the screen");
    }
}

/// A text as it stands in an address.
fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
