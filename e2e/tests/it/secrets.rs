//! Which keys and schemes are believed, and how keys are changed while callbacks arrive.

use std::fs;
use std::path::Path;

use e2e::load::Load;
use e2e::stack::{Db, Ingress, Stack, sign};
use e2e::usage::cpu_seconds;

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
    let both = format!("# Until all senders have the new one.\nold:{OLD}\n\"new:{NEW}\"\n");
    change(&stack, &ingress, &file, &both, "done").await;
    let new = load(NEW, "new");
    goes_on(&old).await;
    goes_on(&new).await;
    old.stop();
    let old = old.finish().await.unwrap();
    // The metric shows that the old key is out of use.
    assert_eq!(verified(&ingress, "old").await, old.accepted() as f64);
    change(&stack, &ingress, &file, &format!("\"new:{NEW}\""), "done").await;
    assert_eq!(post_signed(&ingress, OLD).await, 401);
    goes_on(&new).await;
    // What can't be used changes nothing.
    for bad in [OLD, "", "new:", "new:too-short", "callback:a-secret-of-its-own"] {
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
        ("GITHUB_CALLBACK_SECRET", "the-second-secret"),
        ("CALLBACK_SECRETS", "third:the-third-secret,fourth:whsec_aHVudGVyMmh1bnRlcjJodQ=="),
    ];
    let ingress = stack.start_ingress_with(&secrets, &[]).await.unwrap();
    let keys = [
        ("callback", stack.secret()),
        ("github-callback", "the-second-secret"),
        ("third", "the-third-secret"),
        ("fourth", "whsec_aHVudGVyMmh1bnRlcjJodQ=="),
    ];
    for (id, secret) in keys {
        assert_eq!(verified(&ingress, id).await, 0.0, "it is shown before it is used");
        assert_eq!(post_signed(&ingress, secret).await, 200, "{id}");
        assert_eq!(verified(&ingress, id).await, 1.0);
    }
    assert_eq!(post_signed(&ingress, "hunter2hunter2hu").await, 401, "decoded for one scheme only");
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
async fn a_key_that_is_untimed_needs_no_time_where_the_others_do() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let file = stack.dir().join("secrets");
    fs::write(&file, format!("new:{OLD}\n\"older:a secret with spaces\" untimed\n")).unwrap();
    let env = [("CALLBACK_SECRETS_FILE", file.to_str().unwrap()), ("REQUIRE_TIMESTAMP", "true")];
    let strict = stack.start_ingress_with(&env, &[]).await.unwrap();
    assert_eq!(post_signed(&strict, OLD).await, 401);
    assert_eq!(post_signed(&strict, "a secret with spaces").await, 200);
    let plain = sign("a secret with spaces", status("probe", "queued").as_bytes());
    let github = format!("sha256={}", sign(OLD, status("probe", "queued").as_bytes()));
    let both = [("x-signature", &*plain), ("x-hub-signature-256", &*github)];
    assert_eq!(post(&strict, &both, &status("probe", "queued")).await, 401, "both keys must be");
    // A time that is there is judged.
    let old =
        format!(r#"{{"job_id":"probe","status":"queued","sent_at":{}}}"#, now().timestamp() - 310);
    let signature = sign("a secret with spaces", old.as_bytes());
    assert_eq!(post(&strict, &[("x-signature", &signature)], &old).await, 401);
}

#[tokio::test]
async fn a_refused_signature_is_logged_with_where_it_came_from() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let strict = stack.start_ingress_with(&[("REQUIRE_TIMESTAMP", "true")], &[]).await.unwrap();
    let body = status("a", "queued");
    let (good, wrong) = (stack.sign(body.as_bytes()), sign("x", body.as_bytes()));
    let spoofed = format!("10.1.2.3, \u{e9}\"{}", "x".repeat(500));
    let from = ("x-forwarded-for", &*spoofed);
    // One line for each reason, however many there are.
    for _ in 0..50 {
        assert_eq!(post(&strict, &[from], &body).await, 401);
        assert_eq!(post(&strict, &[from, ("x-signature", &wrong)], &body).await, 401);
        assert_eq!(post(&strict, &[from, ("x-signature", &good)], &body).await, 401);
    }
    let shown = format!(r#"10.1.2.3, \xc3\xa9\"{}"#, "x".repeat(200));
    for (reason, code, key) in [
        ("signature_missing", "ACK-611", serde_json::Value::Null),
        ("signature_wrong", "ACK-613", serde_json::Value::Null),
        ("replay_window", "ACK-615", "callback".into()),
    ] {
        let log = strict.process.log().text();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .filter(|line| line.contains(reason) && line.contains("refused a signature"))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [line] = &lines[..] else { panic!("{reason}: {lines:?}") };
        assert_eq!(line["level"], "WARN");
        assert_eq!((&line["reason"], &line["code"]), (&reason.into(), &code.into()));
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert_eq!(line["forwarded_for"], shown[..200], "{line}");
        assert_eq!(line["key"], key, "{line}");
    }
}

#[tokio::test]
async fn a_file_of_secrets_that_others_can_read_or_change_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let file = stack.dir().join("secrets");
    fs::write(&file, format!("old:{OLD}\n")).unwrap();
    let env = [("CALLBACK_SECRETS_FILE", file.to_str().unwrap())];
    for (mode, warned) in [(0o600, None), (0o640, Some("read")), (0o666, Some("read and change"))] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
        let log = ingress.process.log();
        let found = log.find_line(|line| line.contains("chmod 600"));
        let file = file.display();
        let expected = warned.map(|what| {
            format!("CALLBACK_SECRETS_FILE: others can {what} {file}: run chmod 600 {file}")
        });
        let message = found.as_ref().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["message"].as_str().unwrap().to_owned()
        });
        assert_eq!(message, expected, "{mode:o}");
    }
}

#[tokio::test]
async fn an_unsigned_body_costs_next_to_nothing() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let file = stack.dir().join("secrets");
    let keys: String = (0..255).map(|n| format!("key-{n}:never-log-the-secret-{n}\n")).collect();
    fs::write(&file, keys).unwrap();
    let env = [("CALLBACK_SECRETS_FILE", file.to_str().unwrap())];
    let ingress = stack.start_ingress_with(&env, &[]).await.unwrap();
    let body = "x".repeat(65_536);
    let wrong = "0".repeat(64);
    let cost = async |times: usize, headers: &[(&str, &str)]| {
        let before = cpu_seconds(ingress.process.pid()).unwrap();
        for _ in 0..times {
            assert_eq!(post(&ingress, headers, &body).await, 401);
        }
        cpu_seconds(ingress.process.pid()).unwrap() - before
    };
    let unsigned = cost(30, &[]).await;
    let signed = cost(3, &[("x-signature", &wrong)]).await;
    assert!(unsigned < signed, "{unsigned} s for thirty without a signature, {signed} s for three");
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
