//! Users that may do only what their role needs.

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use e2e::stack::Stack;
use tokio::sync::mpsc;
use worker::entity::job::{Failure, Status};
use worker::event::{Position, lost_body};

use super::{Env, Files, assert_hidden, guarded};
use crate::expect::*;

const CONFIG: &str = r#"
authorization {
  users: [
    { user: "operator", password: "operator-never-log-44b0" }
    {
      user: "ingress", password: "ingress-never-log-91c2"
      permissions: {
        publish: ["callbacks.>", "$JS.API.STREAM.INFO.*"]
        subscribe: ["_INBOX_INGRESS.>"]
      }
    }
    {
      user: "worker", password: "worker-never-log-63ff"
      permissions: {
        publish: [
          "internal.>"
          "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.PURGE.*"
          "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.*.*"
          "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*"
          "$JS.ACK.>"
        ]
        subscribe: ["_INBOX_WORKER.>"]
      }
    }
  ]
}"#;

#[tokio::test]
async fn each_role_works_with_nothing_but_its_own_permissions() {
    let files = Files::new();
    let password = |role: &str| {
        let start = CONFIG.find(&format!("{role}-never-log-")).unwrap();
        CONFIG[start..].split('"').next().unwrap().to_owned()
    };
    let secrets = ["operator", "ingress", "worker"].map(password);
    let file = |role: usize, name: &str| files.write(name, &secrets[role]);
    let env: Env =
        vec![("NATS_USER", "operator".into()), ("NATS_PASSWORD_FILE", file(0, "operator"))];
    let client = ConnectOptions::with_user_and_password("operator".into(), secrets[0].clone());
    let builder = guarded(CONFIG, client, &env).env("HEARTBEAT_TIMEOUT", "3s");
    let mut stack = builder.start().await.unwrap();
    // Those of the stack are the operator's.
    for process in [&mut stack.ingress.process, &mut stack.worker.process] {
        assert!(process.terminate(SOON).await.unwrap().success());
    }
    let (ingress_file, worker_file) = (file(1, "ingress"), file(2, "worker"));
    let role = [("NATS_USER", "ingress"), ("NATS_PASSWORD_FILE", ingress_file.as_str())];
    let ingress = stack.start_ingress_with(&role, &[]).await.unwrap();
    let role = [("NATS_USER", "worker"), ("NATS_PASSWORD_FILE", worker_file.as_str())];
    let _worker = stack.start_worker_with(&role, &[]).await.unwrap();

    let db = stack.db().await.unwrap();
    let say = async |body: String| {
        let signature = stack.sign(body.as_bytes());
        let answer = ingress.post(&[("x-signature", &signature)], body.clone()).await.unwrap();
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    };
    for state in [Status::Queued, Status::Provisioning, Status::Running] {
        say(status("a", &format!("{state:?}").to_lowercase())).await;
        wait_for_status(&stack, &db, "a", state).await;
    }
    // What the worker says itself takes effect, too.
    say(status("silent", "provisioning")).await;
    let silent = wait_for_status(&stack, &db, "silent", Status::Failed).await;
    assert_eq!(silent.failure, Some(Failure::Presumed));
    let logs = stack.all_logs();
    assert!(!logs.contains("ermissions Violation"), "{logs}");

    // Ingress can't say what only workers may, nor workers what only senders may.
    let lost = lost_body("silent", Position { seq: 1, idx: 0 });
    for (user, secret, subjects) in [
        ("ingress", &secrets[1], ["internal.00", "$JS.API.STREAM.PURGE.CALLBACKS-00"]),
        ("worker", &secrets[2], ["callbacks.00", "$JS.API.STREAM.DELETE.CALLBACKS-00"]),
    ] {
        let ends = stream_ends(&stack).await;
        are_forbidden(&stack, user, secret, &subjects, &lost).await;
        assert_eq!(stream_ends(&stack).await, ends, "{user}");
    }
    assert_audited(&stack).await;
    assert_hidden(&stack, &secrets.each_ref().map(String::as_str));
}

/// This user may not publish on these subjects.
async fn are_forbidden(stack: &Stack, user: &str, secret: &str, subjects: &[&str], body: &str) {
    let (events, mut said) = mpsc::unbounded_channel();
    let client = ConnectOptions::with_user_and_password(user.into(), secret.into())
        .event_callback(move |event| {
            let _ = events.send(event);
            std::future::ready(())
        })
        .connect(stack.nats.url())
        .await
        .unwrap();
    for &subject in subjects {
        client.publish(subject.to_owned(), Bytes::from(body.to_owned())).await.unwrap();
        client.flush().await.unwrap();
        let refused = async {
            loop {
                match said.recv().await.unwrap() {
                    Event::ServerError(error) => break error.to_string(),
                    _ => continue,
                }
            }
        };
        let refused = tokio::time::timeout(SOON, refused).await.unwrap();
        assert!(
            refused.contains("Permissions Violation") && refused.contains(subject),
            "{refused}"
        );
    }
}
