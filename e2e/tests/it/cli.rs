//! The commands that show what is going on, as people and as scripts use them.

use e2e::load::Load;
use e2e::process::{Process, Program};
use e2e::proxy::Proxy;
use e2e::stack::{Db, Stack};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::expect::*;
use crate::rebuild::another;

/// The beginning of every colour and every other order to a terminal.
const ESCAPE: char = '\x1b';

/// Runs a command to its end; its exit code, its standard output, and all that it wrote.
async fn run_split(stack: &Stack, program: &Program) -> (i32, String, String) {
    let mut process = stack.spawn(program).unwrap();
    let code = process.wait(SOON).await.unwrap().code().unwrap();
    (code, process.log().stdout(), process.log().text())
}

/// The ids that `ackline jobs list` lists.
async fn listed(stack: &Stack, args: &[&str]) -> Vec<String> {
    let args = [&["jobs", "list", "--json"], args].concat();
    let jobs = stack.ackline_json(&args).await.unwrap();
    let ids = jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned());
    ids.collect()
}

on_each_database!(a_list_has_the_newest_first_and_what_is_asked_for);

async fn a_list_has_the_newest_first_and_what_is_asked_for(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    let database = stack.db().await.unwrap();
    for (id, word) in [("old", "running"), ("Web_1", "failed"), ("web-2", "queued")] {
        accept(&stack, status(id, word)).await;
        wait_until_applied(&stack, &database).await;
    }
    let of_run = json!({ "job_id": "last", "status": "running", "workflow_run_id": "17" });
    accept(&stack, of_run.to_string()).await;
    wait_until_applied(&stack, &database).await;
    // What changes is not newer for that.
    accept(&stack, heartbeat("web-2")).await;
    wait_until_applied(&stack, &database).await;
    assert_eq!(listed(&stack, &[]).await, ["last", "web-2", "Web_1", "old"], "{db:?}");
    for (args, expected) in [
        (&["--status", "running"][..], &["last", "old"][..]),
        (&["--search", "WEB"], &["web-2", "Web_1"]),
        (&["--search", "b_1"], &["Web_1"]),
        (&["--search", "17"], &["last"]),
        (&["--search", "web", "--status", "failed"], &["Web_1"]),
        (&["--search", "nobody"], &[]),
        (&["--limit", "2"], &["last", "web-2"]),
        (&["--limit", "2", "--after", "web-2"], &["Web_1", "old"]),
        (&["--after", "old"], &[]),
    ] {
        assert_eq!(listed(&stack, args).await, expected, "{db:?} {args:?}");
    }
    let long_ago = match db {
        Db::Postgres => "created_at - interval '3 hours'",
        Db::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f000+00:00', created_at, '-3 hours')",
    };
    let change = format!("UPDATE jobs SET created_at = {long_ago} WHERE id = 'old'");
    assert_eq!(database.execute_unprepared(&change).await.unwrap().rows_affected(), 1);
    assert_eq!(listed(&stack, &["--since", "2h"]).await, ["last", "web-2", "Web_1"], "{db:?}");
    assert_eq!(listed(&stack, &["--since", "4h"]).await.len(), 4, "{db:?}");

    let (code, _, text) =
        run_split(&stack, &ackline(&stack, &["jobs", "list", "--after", "x"])).await;
    assert!(code == 1 && text.contains("there is no job \"x\" to go on from"), "{text}");
    let bad = ["jobs", "list", "--since", "0h", "--status", "done", "--limit", "0"];
    let (code, _, text) = run_split(&stack, &ackline(&stack, &bad)).await;
    assert_eq!(code, 2, "{text}");
    for flag in ["--since", "--status", "--limit"] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
}

#[tokio::test]
async fn colours_are_for_terminals() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let database = stack.db().await.unwrap();
    let error = "\u{1b}[2Jgone \u{202e}over";
    let failed = json!({ "job_id": "bad", "status": "failed", "error": error });
    accept(&stack, failed.to_string()).await;
    for word in ["queued", "provisioning", "running"] {
        accept(&stack, status(word, word)).await;
    }
    wait_until_applied(&stack, &database).await;

    let list = ackline(&stack, &["jobs", "list"]);
    let (code, piped, _) = run_split(&stack, &list).await;
    assert_eq!(code, 0);
    assert!(!piped.contains(ESCAPE), "{piped:?}");
    assert!(piped.contains("U+001B[2Jgone U+202Eover"), "{piped}");
    let (code, seen, _) = run_split(&stack, &list.clone().on_terminal()).await;
    assert_eq!(code, 0);
    for (word, colour) in [("queued", 2), ("provisioning", 33), ("running", 32), ("failed", 31)] {
        let painted = format!("\x1b[{colour}m{word}\x1b[0m");
        assert!(seen.contains(&painted), "{painted:?} in {seen:?}");
    }
    // But for the colours it is the same.
    let colours = ["\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"];
    let plain = colours.iter().fold(seen, |seen, colour| seen.replace(colour, ""));
    assert_eq!(plain, piped);
    let no_colour = list.clone().env("NO_COLOR", "1").on_terminal();
    assert_eq!(run_split(&stack, &no_colour).await.1, piped);
    assert_eq!(run_split(&stack, &list.on_terminal().env("TERM", "dumb")).await.1, piped);

    let show = ackline(&stack, &["jobs", "show", "bad"]);
    let (_, piped, _) = run_split(&stack, &show).await;
    assert!(!piped.contains(ESCAPE) && piped.contains("status      failed"), "{piped:?}");
    let (_, seen, _) = run_split(&stack, &show.on_terminal()).await;
    for painted in ["status      \x1b[31mfailed\x1b[0m", "\x1b[31m- → failed\x1b[0m"] {
        assert!(seen.contains(painted), "{painted:?} in {seen:?}");
    }
    // Programs get what was sent.
    let shown: Value = stack.ackline_json(&["jobs", "show", "bad", "--json"]).await.unwrap();
    assert_eq!(shown["job"]["error"], error);
}

#[tokio::test]
async fn a_status_says_whether_somebody_is_needed() {
    let mut stack = Stack::builder().partitions(2).start().await.unwrap();
    let database = stack.db().await.unwrap();
    let ingress = stack.ingress.ops.to_string();
    let status_of = |stack: &Stack, args: &[&str]| {
        let args = [&["status"], args].concat();
        ackline(stack, &args).env("INGRESS_OPS", &ingress)
    };
    refuse_poison(&stack, Db::Sqlite).await;
    accept(&stack, status("a", "provisioning")).await;
    assert_eq!(stack.ingress.post(&[], "unsigned").await.unwrap().status, 401);
    wait_until_applied(&stack, &database).await;
    stack
        .wait_until("every partition has its owner", SOON, async || {
            partitions(&database).await.iter().all(|row| row.owner.is_some())
        })
        .await;

    let (code, out, text) = run_split(&stack, &status_of(&stack, &[])).await;
    assert_eq!(code, 0, "{text}");
    assert!(!out.contains(ESCAPE), "{out:?}");
    for part in
        ["0 queued, 1 provisioning", "a for ", "1 signature_missing", "in order", "accepted 1"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(out.ends_with("\neverything is in order\n"), "{out}");
    let (code, out, _) = run_split(&stack, &status_of(&stack, &["--json"])).await;
    let snapshot: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &snapshot["problems"]), (0, &json!([])), "{out}");
    assert_eq!(snapshot["jobs"]["provisioning"], 1);
    assert_eq!(snapshot["partitions"].as_array().unwrap().len(), 2);
    let (_, seen, _) = run_split(&stack, &status_of(&stack, &[]).on_terminal()).await;
    assert!(seen.contains("\x1b[33m1 provisioning\x1b[0m"), "{seen:?}");

    accept(&stack, poison("bad")).await;
    accept(&stack, heartbeat("bad")).await;
    wait_until_applied(&stack, &database).await;
    let (code, out, text) = run_split(&stack, &status_of(&stack, &["--json"])).await;
    let snapshot: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &snapshot["dead_letters"]),
        (1, &json!({ "dead": 1, "held": 1, "more": false })),
        "{text}"
    );
    assert!(text.contains("1 dead letter(s) wait for a decision, and 1 callback(s)"), "{text}");
    let place = place(&dead_letters(&database).await[0]);
    accept_poison(&stack, Db::Sqlite).await;
    stack.ackline_json(&["dead-letters", "requeue", &place, "--json"]).await.unwrap();
    assert_eq!(run_split(&stack, &status_of(&stack, &[])).await.0, 0);

    // An ingress, the broker, the workers: each is missed when it is away.
    let nobody = status_of(&stack, &[]).env("INGRESS_OPS", "127.0.0.1:1");
    let (code, _, text) = run_split(&stack, &nobody).await;
    assert!(code == 1 && text.contains("the ingress at 127.0.0.1:1 does not answer"), "{text}");
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
    let (code, out, text) = run_split(&stack, &status_of(&stack, &[])).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nobody owns partition 00, 01: do workers run?"), "{text}");
    assert!(out.contains("waiting for a worker"), "{out}");
    stack.nats.kill9();
    let (code, out, text) = run_split(&stack, &status_of(&stack, &[])).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the broker at 127.0.0.1:"), "{text}");
    assert!(out.contains("1 queued, 1 provisioning"), "{out}");

    // Without the database nothing can be said.
    let elsewhere = status_of(&stack, &["--json"]).env("DATABASE_URL", "sqlite:nowhere.db");
    let (code, out, text) = run_split(&stack, &elsewhere).await;
    assert!(code == 1 && out.is_empty(), "{text}");
    assert!(text.contains("ackline: the database can't be reached"), "{text}");
}

/// Waits until a command has written this.
async fn says(process: &Process, text: &str) -> String {
    process.wait_for_line(|line| line.contains(text), SOON).await.unwrap()
}

on_each_database!(a_job_is_watched_until_it_has_finished);

async fn a_job_is_watched_until_it_has_finished(db: Db) {
    let stack = Stack::builder().db(db).partitions(2).start().await.unwrap();
    // A script that waits for a job may be earlier than the job.
    let mut watch = stack.spawn(&ackline(&stack, &["jobs", "watch", "good"])).unwrap();
    says(&watch, "there is no job \\\"good\\\" yet").await;
    let mut told = Vec::new();
    let word = |word| status("good", word);
    // Each is told before the next ones are sent, in the order in which they are.
    for (bodies, said) in [
        (vec![word("queued"), word("provisioning")], &["→ queued", "queued → provisioning"][..]),
        (vec![heartbeat("good")], &["heartbeat (1)"]),
        (vec![heartbeat("good")], &["heartbeat (2)"]),
        (vec![word("queued"), word("running")], &["queued  unchanged", "provisioning → running"]),
    ] {
        for body in bodies {
            accept(&stack, status("other", "queued")).await;
            accept(&stack, body).await;
        }
        let before = told.len();
        told.extend(said.iter().map(|said| format!("  good  {said}")));
        for said in &told[before..] {
            assert!(says(&watch, said).await.ends_with(said));
        }
    }
    assert_eq!(watch.wait(SOON).await.unwrap().code(), Some(0), "{}", watch.log().text());
    let seen = watch.log().stdout();
    assert_eq!(seen.lines().count(), told.len(), "{seen}");
    assert!(seen.lines().zip(&told).all(|(line, said)| line.ends_with(said)), "{seen}");
    assert!(!seen.contains("other") && !seen.contains(ESCAPE), "{seen:?}");
    // One that has finished is told at once.
    let (code, out, _) = run_split(&stack, &ackline(&stack, &["jobs", "watch", "good"])).await;
    assert!(code == 0 && out.ends_with("  good  is running\n"), "{out}");

    accept(&stack, status("bad", "provisioning")).await;
    let known = stack.db().await.unwrap();
    wait_until_applied(&stack, &known).await;
    let mut watch = stack.spawn(&ackline(&stack, &["jobs", "watch", "bad", "--json"])).unwrap();
    says(&watch, "\"job\"").await;
    let failed = json!({
        "job_id": "bad", "status": "failed", "failed_step": "make", "error": "no room",
    });
    accept(&stack, failed.to_string()).await;
    assert_eq!(watch.wait(SOON).await.unwrap().code(), Some(1));
    let text = watch.log().text();
    assert!(text.contains("ackline: the job \"bad\" failed: in make: no room"), "{text}");
    let out = watch.log().stdout();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!(lines[0]["job"]["status"], "provisioning");
    assert_eq!(lines[1]["event"]["to_status"], "failed");
    assert_eq!(
        (&lines[2]["job"]["id"], &lines[2]["job"]["error"]),
        (&json!("bad"), &json!("no room"))
    );
}

/// A script must not take it for a success or a failure of the job.
#[tokio::test]
async fn what_is_not_known_of_a_job_has_a_code_of_its_own() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    accept(&stack, status("slow", "provisioning")).await;
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    let watch = |args: &[&str]| ackline(&stack, &["jobs", "watch"]).args(args);
    let elsewhere = watch(&["slow"]).env("DATABASE_URL", "sqlite:no.db");
    for (program, code, words) in [
        (watch(&["slow", "--timeout", "100ms"]), 3, "the job \"slow\" is provisioning after 100ms"),
        (watch(&["nobody", "--timeout", "100ms"]), 3, "the job \"nobody\" is not known after"),
        (elsewhere, 3, "the database can't be reached"),
        (watch(&["--timeout", "1s"]), 2, "<ID>"),
    ] {
        let (ended, _, text) = run_split(&stack, &program).await;
        assert!(ended == code && text.contains(words), "{words}: {ended} {text}");
    }
    let mut watch = stack.spawn(&ackline(&stack, &["jobs", "watch", "slow"])).unwrap();
    says(&watch, "is provisioning").await;
    assert_eq!(watch.interrupt(SOON).await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn all_jobs_are_watched_line_by_line() {
    let stack = Stack::builder().partitions(4).start().await.unwrap();
    let database = stack.db().await.unwrap();
    accept(&stack, status("before", "running")).await;
    wait_until_applied(&stack, &database).await;
    let watch = |args: &[&str]| {
        let args = [&["jobs", "watch"], args].concat();
        stack.spawn(&ackline(&stack, &args)).unwrap()
    };
    let (mut lines, mut objects) = (watch(&[]), watch(&["--json"]));
    // They begin with what comes after their first look, so one has to be seen first.
    let mut sent = 0;
    stack
        .wait_until("both have begun to watch", SOON, async || {
            sent += 1;
            accept(&stack, status(&format!("first-{sent}"), "queued")).await;
            let began = |process: &Process| process.log().stdout().contains("first-");
            began(&lines) && began(&objects)
        })
        .await;
    let report = Load::new(stack.ingress.addr, stack.secret(), 60).start().finish().await.unwrap();
    assert_eq!(report.accepted(), 600);
    wait_until_applied(&stack, &database).await;
    accept(&stack, status("last", "failed")).await;
    for process in [&lines, &objects] {
        says(process, "last").await;
    }
    for process in [&mut lines, &mut objects] {
        assert_eq!(process.interrupt(SOON).await.unwrap().code(), Some(0));
    }
    let text = lines.log().stdout();
    assert!(!text.contains("before") && !text.contains(ESCAPE), "{text}");
    let objects: Vec<Value> = objects
        .log()
        .stdout()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .collect();
    // Every event of the load once, and those of a job in their order.
    let told = |id: &str| {
        let of_job = objects.iter().filter(|event| event["job_id"] == id);
        of_job.map(|event| (event["seq"].as_i64(), event["idx"].as_i64())).collect::<Vec<_>>()
    };
    for job in &report.jobs {
        let expected: Vec<_> = events(&database)
            .await
            .into_iter()
            .filter(|event| event.job_id == job.job_id)
            .map(|event| (Some(event.seq), Some(event.idx.into())))
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(told(&job.job_id), expected);
        let lines = text.lines().filter(|line| line.contains(&format!("  {}  ", job.job_id)));
        assert_eq!(lines.count(), expected.len(), "{}", job.job_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_outlives_the_database() {
    let mut stack = Stack::builder().db(Db::Postgres).partitions(1).start().await.unwrap();
    accept(&stack, status("a", "provisioning")).await;
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    // Who waits for a server behind a proxy is told at once that it is gone.
    let server = stack.postgres.as_ref().unwrap().address();
    let proxy = Proxy::start(server).await.unwrap();
    let url = stack.database_url().replace(&server.to_string(), &proxy.address().to_string());
    let watch = |args: &[&str]| {
        let args = [&["jobs", "watch"], args].concat();
        stack.spawn(&ackline(&stack, &args).env("DATABASE_URL", &url)).unwrap()
    };
    let (mut one, mut all) = (watch(&["a"]), watch(&[]));
    says(&one, "is provisioning").await;
    stack
        .wait_until("it watches all", SOON, async || {
            accept(&stack, heartbeat("a")).await;
            accept(&stack, status("b", "provisioning")).await;
            all.log().stdout().contains("  b  ")
        })
        .await;
    stack.postgres.as_mut().unwrap().process.kill9();
    for process in [&one, &all] {
        says(process, "the database does not answer, and is asked again").await;
    }
    accept(&stack, status("a", "running")).await;
    stack.postgres.as_mut().unwrap().restart().await.unwrap();
    assert_eq!(one.wait(SOON).await.unwrap().code(), Some(0), "{}", one.log().text());
    says(&all, "  a  provisioning → running").await;
    assert_eq!(all.interrupt(SOON).await.unwrap().code(), Some(0));
    for process in [&one, &all] {
        let text = process.log().text();
        assert_eq!(text.matches("the database does not answer").count(), 1, "{text}");
        assert!(text.contains("the database answers again"), "{text}");
    }
}

#[tokio::test]
async fn long_commands_show_their_progress_on_a_terminal_and_only_there() {
    let stack = Stack::builder().db(Db::Postgres).partitions(2).start().await.unwrap();
    let report = Load::new(stack.ingress.addr, stack.secret(), 50).start().finish().await.unwrap();
    assert_eq!(report.accepted(), 500);
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    let messages: u64 = stream_ends(&stack).await.iter().sum();
    let (piped_url, _) = another(&stack, Db::Postgres, "piped").await;
    let (url, _) = another(&stack, Db::Postgres, "rebuilt").await;
    let prune = ["prune", "--older-than", "1ms", "--dry-run"];
    for (args, url, bar, said) in [
        (&["audit"][..], None, format!("/{messages} messages"), "jobs folded from their beginning"),
        (&["rebuild"], Some((&piped_url, &url)), format!("/{messages} messages"), "rebuilt from "),
        (&prune, None, "/50 jobs".to_owned(), "0 jobs with 0 events would be removed"),
    ] {
        let program = ackline(&stack, args);
        let own = stack.database_url();
        let piped = program.clone().env("DATABASE_URL", url.map_or(own, |(piped, _)| piped));
        let (code, _, text) = run_split(&stack, &piped).await;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(said) && !text.contains(&bar) && !text.contains(ESCAPE), "{text:?}");

        let seen = program.env("DATABASE_URL", url.map_or(own, |(_, seen)| seen));
        let seen = seen.env("RUST_LOG", "worker=debug").on_terminal();
        let (code, seen, _) = run_split(&stack, &seen).await;
        assert_eq!(code, 0, "{seen}");
        assert!(seen.contains(&bar), "{bar} in {seen:?}");
        // Nothing of it is left beside what is said then, or beside what is logged meanwhile.
        for line in seen.lines().filter(|line| line.contains(said) || line.contains("DEBUG")) {
            let shown = line.rsplit("\x1b[2K").next().unwrap();
            assert!(!shown.contains(&bar), "{line:?}");
        }
    }
}

#[tokio::test]
async fn a_list_ends_silently_when_its_reader_has_had_enough() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let jobs = 400;
    for n in 0..jobs {
        accept(&stack, status(&format!("a-long-name-of-job-{n}"), "queued")).await;
    }
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    let ackline = e2e::tools::binary("ackline").unwrap();
    for args in [
        "jobs list --limit 500",
        "jobs list --limit 500 --json",
        "jobs show a-long-name-of-job-1 --json",
        "partitions list --json",
        "dead-letters list --json",
        "status --json",
        "jobs --help",
    ] {
        // The reader has gone before anything is written, or when it has begun to read.
        for (wait, reader) in [("sleep 0.2;", "true"), ("", "head -1 >/dev/null")] {
            let script =
                format!("{{ {wait} '{}' {args}; echo $? >&2; }} | {reader}", ackline.display());
            let output = tokio::process::Command::new("bash")
                .args(["-c", &script])
                .env("DATABASE_URL", stack.database_url())
                .env("NATS_URL", stack.nats.url())
                .env("RUST_LOG", "error")
                .output()
                .await
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n", "{args} {reader}");
        }
    }
}

#[tokio::test]
async fn only_its_owner_can_read_a_database_of_sqlite() {
    use std::os::unix::fs::PermissionsExt;

    let stack = Stack::start(Db::Sqlite).await.unwrap();
    accept(&stack, status("a", "queued")).await;
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    for name in ["ackline.db", "ackline.db-wal", "ackline.db-shm", "ackline.db.lock"] {
        let file = std::fs::metadata(stack.dir().join(name)).unwrap();
        let mode = file.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}: {mode:o}");
    }
}

#[tokio::test]
async fn the_colours_of_an_error_are_taken_out() {
    let stack = Stack::builder().partitions(1).start().await.unwrap();
    let said = "\x1b[31m╷\x1b[0m\n\x1b[1m\x1b[31mError: \x1b[0mno capacity";
    let failed = json!({ "job_id": "a", "status": "failed", "error": said, "failed_step": said });
    accept(&stack, failed.to_string()).await;
    wait_until_applied(&stack, &stack.db().await.unwrap()).await;
    let plain = "╷ Error: no capacity";
    for args in [&["jobs", "list"][..], &["jobs", "show", "a"]] {
        let printed = stack.ackline(args).await.unwrap();
        assert!(printed.contains(plain) && !printed.contains("U+001B"), "{args:?}: {printed}");
    }
    let watched = stack.program("ackline").unwrap().args(["jobs", "watch", "a"]);
    let (code, watched, _) = run_split(&stack, &watched).await;
    assert!(code != 0 && watched.contains(plain) && !watched.contains("U+001B"), "{watched}");
    for path in ["/jobs", "/job?id=a"] {
        let page = e2e::http::get(stack.worker.ops, path).await.unwrap().text();
        assert!(page.contains("Error: no capacity") && !page.contains("U+001B"), "{path}: {page}");
    }
    // For programs it is as it was sent.
    let row = stack.ackline_json(&["jobs", "show", "a", "--json"]).await.unwrap();
    assert!(row.to_string().contains("\\u001b[31m"), "{row}");
}
