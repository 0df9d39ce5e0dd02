//! A broker that speaks TLS and wants to know who is there: with the right settings callbacks go
//! through, with wrong ones nothing does, and both sides say why. No secret shows on the way.

mod identity;
mod jwt;
mod replies;
mod settings;
mod tls;

use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use e2e::process::Program;
use e2e::stack::{Builder, Stack};
use tempfile::TempDir;
use worker::entity::job::Status;

use crate::expect::*;

/// What a process is given, by the names of variables.
type Env = Vec<(&'static str, String)>;

/// A stack whose processes say all that they can be told to say.
fn guarded(config: &str, client: ConnectOptions, env: &Env) -> Builder {
    let builder = Stack::builder().partitions(1).nats_config(config).nats_client(client);
    env.iter()
        .fold(builder.env("RUST_LOG", "trace"), |builder, (name, value)| builder.env(*name, value))
}

/// Files of a test's own.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, contents: &str) -> String {
        std::fs::write(self.path(name), contents).unwrap();
        text(&self.path(name))
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A callback goes from ingress through the stream to the database.
async fn goes_through(stack: &Stack, job: &str) {
    accept(stack, status(job, "queued")).await;
    wait_for_status(stack, &stack.db().await.unwrap(), job, Status::Queued).await;
}

/// With these variables instead of the stack's (and without those that are empty), ingress and a
/// worker are not ready, a command fails, and each of them says `why`. The stack's own worker must
/// not run: SQLite has one.
async fn are_refused(stack: &Stack, env: &[(&str, &str)], why: &str) {
    let program = |binary: &str| {
        let program = stack.program(binary).unwrap();
        env.iter().fold(program, |program: Program, (name, value)| match *value {
            "" => program.without_env(name),
            value => program.env(name, value),
        })
    };
    let ingress = program("ackline-ingress").env("INGRESS_LISTEN", "127.0.0.1:0");
    unready(stack, &ingress, why).await;
    unready(stack, &program("ackline-worker"), why).await;
    let (code, said) = run(stack, &program("ackline").args(["audit"])).await;
    assert_eq!(code, 1, "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("ackline: the broker at ") && last.contains(why), "{why} in {said}");
}

/// Ends the stack's worker, after everything is proved to be applied.
async fn end_worker(stack: &mut Stack) {
    assert_audited(stack).await;
    assert!(stack.worker.process.terminate(SOON).await.unwrap().success());
}

/// Nothing that any process has said, or shows to other users of the machine, has a secret in it.
fn assert_hidden(stack: &Stack, secrets: &[&str]) {
    let logs = stack.all_logs();
    let processes = [&stack.ingress.process, &stack.worker.process, &stack.nats.node(0).process];
    let lines = processes.map(|process| {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid()));
        String::from_utf8_lossy(&line.unwrap_or_default()).into_owned()
    });
    for secret in secrets {
        assert!(!secret.is_empty());
        assert!(!logs.contains(secret), "{secret} is in the logs");
        assert!(!lines.concat().contains(secret), "{secret} is on a command line");
    }
}

/// Makes the server read its configuration and certificates again.
async fn reload(stack: &Stack) {
    let server = &stack.nats.node(0).process;
    let reloads = || server.log().text().matches("Reloaded server configuration").count();
    let before = reloads();
    server.hang_up();
    stack.wait_until("the server reloads", SOON, async || reloads() > before).await;
}
