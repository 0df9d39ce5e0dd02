//! Credentials in a reason for a failure stay on the runner, whose masks do not reach what is sent.

use e2e::stack::{CALLBACK_PATH, Db, Stack};
use worker::entity::job::Status;

use super::*;

/// Reports a failure with this reason: what the row says.
async fn reported(stack: &Stack, job: &str, env: &[(&str, &str)]) -> String {
    let failed = [&[("ACKLINE_STATUS", "failed"), ("ACKLINE_JOB_ID", job)], env].concat();
    step_succeeds(step(stack, job, &failed)).await;
    let db = stack.db().await.unwrap();
    wait_for_status(stack, &db, job, Status::Failed).await.error.unwrap()
}

/// Put together here, so that nobody who looks for credentials finds these.
fn example(prefix: &str, characters: usize) -> String {
    prefix.chars().chain("aB3dE6gH9jK2".chars().cycle().take(characters)).collect()
}

#[tokio::test]
async fn what_looks_like_a_credential_is_not_sent() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let gone = "[redacted]";
    let mut shapes = [
        ("ghp_", 36),
        ("gho_", 36),
        ("ghu_", 36),
        ("ghs_", 36),
        ("ghr_", 36),
        ("github_pat_", 82),
        ("glpat-", 20),
        ("glrt-", 20),
        ("xoxb-", 24),
        ("xapp-1-", 24),
        ("AIza", 35),
        ("ya29.", 40),
        ("npm_", 36),
        ("dckr_pat_", 27),
        ("pypi-", 60),
        ("hvs.", 24),
        ("whsec_", 32),
        ("sk-ant-", 40),
        ("sk_live_", 24),
    ]
    .map(|(prefix, characters)| example(prefix, characters))
    .to_vec();
    shapes.extend(["AKIA", "ASIA"].map(|prefix| example(prefix, 16).to_ascii_uppercase()));
    shapes.push([example("eyJ", 17), example("eyJ", 30), example("", 43)].join("."));
    shapes.push(stack.secret().to_owned());
    let wrapped = |shape: &String| format!("in \u{1b}[31m{shape}\u{1b}[0m, \"{shape}\" {shape}");
    let lines: Vec<_> = shapes.iter().map(|shape| wrapped(&format!(" {shape}"))).collect();
    for (index, part) in lines.chunks(8).enumerate() {
        let (job, reason) = (format!("shape-{index}"), part.join("\n"));
        let error = reported(&stack, &job, &[("ACKLINE_ERROR", &reason)]).await;
        let expected = vec![wrapped(&format!(" {gone}")); part.len()].join("\n");
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn what_is_said_to_be_a_credential_is_not_sent_and_the_rest_is() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let lines = [
        ("https://bot:hunter2@host/x", "https://bot:[redacted]@host/x"),
        ("postgres://u:p@ss@db:5432/x", "postgres://u:[redacted]@db:5432/x"),
        ("git+https://hunter2hunter2hunter2@git/x", "git+https://[redacted]@git/x"),
        ("> Authorization: Bearer hunter2", "> Authorization: Bearer [redacted]"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic [redacted]"),
        ("-H 'PRIVATE-TOKEN: hunter2'", "-H 'PRIVATE-TOKEN: [redacted]'"),
        ("X-Api-Key: hunter2", "X-Api-Key: [redacted]"),
        ("Set-Cookie: session=hunter2; Path=/", "Set-Cookie: [redacted]"),
        ("bearer hunter2hunter2hunter2", "bearer [redacted]"),
        ("+ export DB_PASSWORD=hunter2", "+ export DB_PASSWORD=[redacted]"),
        ("client_secret = 'hun ter2', x", "client_secret = [redacted], x"),
        (r#"{"token": "hunter2", "n": 1}"#, r#"{"token": "[redacted]", "n": 1}"#),
        (r#"{\"password\":\"hunter2\"}"#, r#"{\"password\":\"[redacted]\"}"#),
        ("tool --db-password hunter2 -v", "tool --db-password [redacted] -v"),
        ("curl -u bot:hunter2 https://host", "curl -u bot:[redacted] https://host"),
        ("https://s3/x?X-Amz-Signature=hunter2&y=1", "https://s3/x?X-Amz-Signature=[redacted]&y=1"),
        (
            r"key -----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- end",
            "key [redacted] end",
        ),
        (
            "│ -----BEGIN OPENSSH PRIVATE KEY-----\npassword=hunter2\n-----END OPENSSH PRIVATE KEY-----.",
            "│ [redacted]\n.",
        ),
        // What is no credential.
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("bearer authentication failed", "bearer authentication failed"),
        ("invalid token: not found; token == null", "invalid token: not found; token == null"),
        ("PASSWORD=$PASSWORD TOKEN_URL=https://x", "PASSWORD=$PASSWORD TOKEN_URL=https://x"),
        ("highs_and_lows_of_things", "highs_and_lows_of_things"),
        ("task-provision-agent-eu-central-1", "task-provision-agent-eu-central-1"),
        // To the end, if the key has none.
        ("x -----BEGIN PRIVATE KEY-----\nhunter2\nhunter2", "x [redacted]"),
    ];
    let (said, expected): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    let error = reported(&stack, "said", &[("ACKLINE_ERROR", &said.join("\n"))]).await;
    assert_eq!(error, expected.join("\n"));
}

/// A part of a credential does not look like one.
#[tokio::test]
async fn a_cut_does_not_go_through_a_credential() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let folder = stack.dir().join("errors");
    std::fs::create_dir_all(&folder).unwrap();
    let end = "b".repeat(1000);
    let text = format!("{} {} {end}", "a".repeat(100), example("ghp_", 36));
    std::fs::write(folder.join("build.err"), text).unwrap();
    let failed =
        [("ACKLINE_OUTCOMES", "build=failure"), ("ACKLINE_ERROR_FOLDER", folder.to_str().unwrap())];
    let error = reported(&stack, "cut", &failed).await;
    assert_eq!(error, format!("{} [redacted] {end}", "a".repeat(12)));
}

/// Whatever a shell or sed would take for something else in it.
#[tokio::test]
async fn the_secret_itself_is_not_sent() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let secret = r"n*ver[-l]og\/&this?#";
    let ingress =
        stack.start_ingress_with(&[("GITHUB_CALLBACK_SECRET", secret)], &[]).await.unwrap();
    let url = format!("http://{}{CALLBACK_PATH}", ingress.addr);
    let said = format!("key {secret}, not never-log/this {secret}");
    let env =
        [("ACKLINE_SECRET", secret), ("ACKLINE_CALLBACK_URL", &*url), ("ACKLINE_ERROR", &*said)];
    let error = reported(&stack, "own", &env).await;
    assert_eq!(error, "key [redacted], not never-log/this [redacted]");
}
