//! The commands that show what is going on, as people and as scripts use them.

use e2e::process::Program;
use e2e::stack::{Db, Stack};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::expect::*;

/// The beginning of every colour and every other order to a terminal.
const ESCAPE: char = '\x1b';

fn worker(stack: &Stack, args: &[&str]) -> Program {
    stack.program("worker").unwrap().args(args)
}

/// Runs a command to its end; its exit code, its standard output, and all that it wrote.
async fn run(stack: &Stack, program: &Program) -> (i32, String, String) {
    let mut process = stack.spawn(program).unwrap();
    let code = process.wait(SOON).await.unwrap().code().unwrap();
    (code, process.log().stdout(), process.log().text())
}

/// The ids that `worker jobs list` lists.
async fn listed(stack: &Stack, args: &[&str]) -> Vec<String> {
    let args = [&["jobs", "list", "--json"], args].concat();
    let jobs = stack.worker_cli(&args).await.unwrap();
    let ids = jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn a_list_has_the_newest_first_and_what_is_asked_for() {
    for db in Db::ALL {
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

        let (code, _, text) = run(&stack, &worker(&stack, &["jobs", "list", "--after", "x"])).await;
        assert!(code == 1 && text.contains("there is no job \"x\" to go on from"), "{text}");
        let bad = ["jobs", "list", "--since", "0h", "--status", "done", "--limit", "0"];
        let (code, _, text) = run(&stack, &worker(&stack, &bad)).await;
        assert_eq!(code, 2, "{text}");
        for flag in ["--since", "--status", "--limit"] {
            assert!(text.contains(flag), "{flag} in {text}");
        }
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

    let list = worker(&stack, &["jobs", "list"]);
    let (code, piped, _) = run(&stack, &list).await;
    assert_eq!(code, 0);
    assert!(!piped.contains(ESCAPE), "{piped:?}");
    assert!(piped.contains("U+001B[2Jgone U+202Eover"), "{piped}");
    let (code, seen, _) = run(&stack, &list.clone().on_terminal()).await;
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
    assert_eq!(run(&stack, &no_colour).await.1, piped);
    assert_eq!(run(&stack, &list.on_terminal().env("TERM", "dumb")).await.1, piped);

    let show = worker(&stack, &["jobs", "show", "bad"]);
    let (_, piped, _) = run(&stack, &show).await;
    assert!(!piped.contains(ESCAPE) && piped.contains("status      failed"), "{piped:?}");
    let (_, seen, _) = run(&stack, &show.on_terminal()).await;
    for painted in ["status      \x1b[31mfailed\x1b[0m", "\x1b[31m- → failed\x1b[0m"] {
        assert!(seen.contains(painted), "{painted:?} in {seen:?}");
    }
    // Programs get what was sent.
    let shown: Value = stack.worker_cli(&["jobs", "show", "bad", "--json"]).await.unwrap();
    assert_eq!(shown["job"]["error"], error);
}
