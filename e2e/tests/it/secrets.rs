//! Which keys and schemes are believed, and how keys are changed while callbacks arrive.

use std::fs;
use std::path::Path;

use e2e::load::Load;
use e2e::stack::{Db, Ingress, Stack, sign};

use crate::expect::*;

const OLD: &str = "never-log-the-old-secret-77";
const NEW: &str = "never-log,the:new secret-78";

async fn post(ingress: &Ingress, headers: &[(&str, &str)], body: &str) -> u16 {
    ingress.post(headers, body.to_owned()).await.unwrap().status
}

async fn post_signed(ingress: &Ingress, secret: &str) -> u16 {
    let body = status("probe", "queued");
    post(ingress, &[("x-signature", &sign(secret, body.as_bytes()))], &body).await
}

async fn verified(ingress: &Ingress, key: &str) -> f64 {
    series(ingress.ops, "ackline_ingress_verified_total", &[("key", key)]).await
}

/// Writes the file of secrets, and waits until ingress has read it again.
async fn change(stack: &Stack, ingress: &Ingress, file: &Path, text: &str, outcome: &str) {
    let labels = [("what", "secrets"), ("outcome", outcome)];
    let reloads = async || series(ingress.ops, "ackline_ingress_reloads_total", &labels).await;
    let before = reloads().await;
    fs::write(file, text).unwrap();
    ingress.process.hang_up();
    let read = async || reloads().await > before;
    stack.wait_until("the secrets are read again", SOON, read).await;
}

#[tokio::test]
async fn a_secret_is_changed_under_load_without_losing_a_callback() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let file = stack.dir().join("secrets");
    fs::write(&file, format!("old:{OLD}\n")).unwrap();
    let env = [("CALLBACK_SECRETS_FILE", file.to_str().unwrap())];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    assert_eq!(post_signed(&ingress, NEW).await, 401);

    let load = |secret, prefix: &str| {
        let load = Load::new(ingress.addr, secret, 100_000);
        Load { prefix: prefix.to_owned(), connections: 8, ..load }.start()
    };
    let old = load(OLD, "old");
    let goes_on = async |running: &e2e::load::Running| {
        let before = running.accepted();
        stack.wait_until("the load goes on", SOON, async || running.accepted() > before + 50).await;
    };
    goes_on(&old).await;
    let both = format!("# Until all senders have the new one.\nold:{OLD}\nnew:{NEW}\n");
    change(&stack, &ingress, &file, &both, "done").await;
    let new = load(NEW, "new");
    goes_on(&old).await;
    goes_on(&new).await;
    old.stop();
    let old = old.finish().await.unwrap();
    // The metric shows that the old key is out of use.
    assert_eq!(verified(&ingress, "old").await, old.accepted() as f64);
    change(&stack, &ingress, &file, &format!("new:{NEW}"), "done").await;
    assert_eq!(post_signed(&ingress, OLD).await, 401);
    goes_on(&new).await;
    // What can't be used changes nothing.
    for bad in [OLD, "", "new:", "callback:x"] {
        change(&stack, &ingress, &file, bad, "failed").await;
    }
    goes_on(&new).await;
    new.stop();
    let new = new.finish().await.unwrap();
    assert_eq!(verified(&ingress, "new").await, new.accepted() as f64);
    assert_eq!((old.retries, new.retries), (0, 0), "no request was refused or cut off");

    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let ids = |job: &e2e::load::Job| job.job_id.clone();
    let others: Vec<_> = new.jobs.iter().map(ids).collect();
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    assert_load_exactly_once(&db, &old, &others).await;
    let logs = stack.all_logs();
    assert!(!logs.contains(OLD) && !logs.contains(NEW), "no log has a secret");
    assert!(logs.contains("line 1 of") && logs.contains("the id callback names two secrets"));
    assert_audited(&stack).await;
}

#[tokio::test]
async fn every_secret_that_is_set_is_active_and_counted_by_its_id() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let secrets = [
        ("GITHUB_CALLBACK_SECRET", "second"),
        ("CALLBACK_SECRETS", "third:3,fourth:whsec_aHVudGVyMg=="),
    ];
    let ingress = stack.start_ingress_with(&secrets, &[]).await.unwrap();
    let keys = [
        ("callback", stack.secret()),
        ("github-callback", "second"),
        ("third", "3"),
        ("fourth", "whsec_aHVudGVyMg=="),
    ];
    for (id, secret) in keys {
        assert_eq!(verified(&ingress, id).await, 0.0, "it is shown before it is used");
        assert_eq!(post_signed(&ingress, secret).await, 200, "{id}");
        assert_eq!(verified(&ingress, id).await, 1.0);
    }
    assert_eq!(post_signed(&ingress, "hunter2").await, 401, "decoded for one scheme only");
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    assert_eq!(events(&db).await.len(), keys.len());
}

#[tokio::test]
async fn only_allowed_schemes_are_believed_and_refusals_are_counted_by_reason() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let ingress = stack.start_ingress_with(&[], &["--schemes=github"]).await.unwrap();
    let body = status("a", "queued");
    let plain = stack.sign(body.as_bytes());
    let github = format!("sha256={plain}");
    let wrong = format!("sha256={}", sign("x", body.as_bytes()));
    assert_eq!(post(&ingress, &[("x-hub-signature-256", &github)], &body).await, 200);
    for (headers, reason) in [
        (&[][..], "signature_missing"),
        (&[("x-hub-signature-256", plain.as_str())], "signature_malformed"),
        (&[("x-hub-signature-256", &wrong)], "signature_wrong"),
        (&[("x-hub-signature-256", &wrong), ("x-signature", &plain)], "signature_wrong"),
        (&[("x-signature", &plain)], "scheme_not_allowed"),
    ] {
        let labels = [("reason", reason)];
        let refused = async || series(ingress.ops, "ackline_ingress_refused_total", &labels).await;
        let before = refused().await;
        assert_eq!(post(&ingress, headers, &body).await, 401, "{reason}");
        assert_eq!(refused().await, before + 1.0, "{reason}");
    }
    let both = [("x-hub-signature-256", github.as_str()), ("x-signature", &plain)];
    assert_eq!(post(&ingress, &both, &body).await, 200);
}

#[tokio::test]
async fn a_standard_webhook_needs_no_time_and_no_event_id_in_its_body() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let strict = stack.start_ingress_with(&[], &["--require-timestamp"]).await.unwrap();
    assert_eq!(post_signed(&strict, stack.secret()).await, 401, "it signs no time");
    let file = stack.dir().join("body");
    fs::write(&file, status("a", "queued")).unwrap();
    let file = file.to_str().unwrap();
    let sign = async |more: &[&str]| {
        let args = [&["sign", "--scheme=standard", "--file", file, "--id=msg_1"], more].concat();
        stack.ackline(&args).await.unwrap()
    };
    let send = async |headers: &str| {
        let headers: Vec<_> = headers.lines().map(|line| line.split_once(": ").unwrap()).collect();
        post(&strict, &headers, &status("a", "queued")).await
    };
    let signed = sign(&[]).await;
    assert_eq!(send(&signed).await, 200);
    assert_eq!(send(&signed).await, 200, "a repetition is for the worker to recognise");
    let at = |offset: i64| format!("--timestamp={}", now().timestamp() + offset);
    for (offset, expected) in [(-310, 401), (310, 401), (-250, 200)] {
        assert_eq!(send(&sign(&[&at(offset)]).await).await, expected, "{offset}");
    }
    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let outcomes: Vec<_> =
        events(&db).await.into_iter().map(|event| (event.event_id, event.reason)).collect();
    let id = || Some("msg_1".to_owned());
    let duplicate = || (id(), Some("duplicate".to_owned()));
    assert_eq!(outcomes, [(id(), None), duplicate(), duplicate()]);
}

#[tokio::test]
async fn our_own_sender_speaks_every_scheme() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    for scheme in ["plain", "github", "standard"] {
        let args = ["send", "--job-id=a", "--status=queued", "--retry-for=0", "--scheme", scheme];
        assert_eq!(stack.ackline(&args).await.unwrap().trim(), r#"{"received":true}"#);
        let labels = [("scheme", scheme), ("key", "callback")];
        let count = series(stack.ingress.ops, "ackline_ingress_verified_total", &labels).await;
        assert_eq!(count, 1.0, "{scheme}");
    }
}
