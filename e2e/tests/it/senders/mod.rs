//! Ackline against the software of those who send: what others sign, and what curl makes of the
//! answers.

mod curl;
mod signer;

use std::collections::BTreeMap;

use e2e::http::Answer;
use e2e::stack::{Ingress, Stack};
use serde_json::json;
use shared::bundle::{self, Metadata};
use shared::partition::Layout;
use signer::{Headers, Signer};
use worker::entity::job::Status;

use crate::expect::*;

/// Active beside the stack's own, with their ids. Standard Webhooks decodes the latter two.
const SECRETS: [(&str, &str); 3] = [
    ("ops", "correct horse: battery staple"),
    ("next", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("last", "whsec_+//+LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5I="),
];
const FOREIGN_SECRET: &str = "whsec_ofzkNjhU/4iM/0uOeHXWAMJoI5BBKoz3mzfQsRFI";

async fn stack() -> Stack {
    let secrets: Vec<String> =
        SECRETS.iter().map(|(id, secret)| format!("{id}:{secret}")).collect();
    Stack::builder().env("CALLBACK_SECRETS", secrets.join(",")).start().await.unwrap()
}

async fn post(to: &Ingress, headers: &Headers, body: &str) -> Answer {
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    to.post(&headers, body.to_owned()).await.unwrap()
}

/// What ingress wrote down beside each job's first callback.
async fn metadata(stack: &Stack) -> BTreeMap<String, Metadata> {
    let jetstream = async_nats::jetstream::new(stack.nats.client().await.unwrap());
    let mut found = BTreeMap::new();
    for (partition, end) in Layout::new(1, 16).all().zip(stream_ends(stack).await) {
        let stream = jetstream.get_stream(partition.stream()).await.unwrap();
        for seq in 1..=end {
            let message = stream.get_raw_message(seq).await.unwrap();
            for entry in bundle::decode(&message.payload).unwrap() {
                found.entry(entry.metadata.job.clone()).or_insert(entry.metadata);
            }
        }
    }
    found
}

#[tokio::test]
async fn what_others_sign_is_accepted_and_nothing_else() {
    let stack = stack().await;
    let mut signed = Vec::new();
    for signer in Signer::ALL {
        for (key, secret) in SECRETS {
            let job = format!("{signer:?}-{key}");
            let body =
                json!({ "job_id": job, "status": "provisioning", "note": "Köln" }).to_string();
            let message = format!("msg_{job}");
            let headers = signer.sign(secret, &message, &body).await;

            let tampered = body.replace("Köln", "Kölm");
            assert_eq!(post(&stack.ingress, &headers, &tampered).await.status, 401, "{job}");
            // What is signed beside the body; of the other schemes this changes the signature.
            for field in 0..headers.len() {
                let mut tampered = headers.clone();
                let value = &mut tampered[field].1;
                // All bits of this digit count in every scheme, and the time remains a recent one.
                let at = value.trim_end_matches('=').len() - 2;
                let other = if value.as_bytes()[at] == b'1' { "2" } else { "1" };
                value.replace_range(at..=at, other);
                let answer = post(&stack.ingress, &tampered, &body).await;
                assert_eq!(answer.status, 401, "{job}, {}", tampered[field].0);
            }
            let answer = post(&stack.ingress, &headers, &body).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"received":true}"#));
            signed.push((signer, key, job, headers, body));
        }
        let body = status("foreign", "provisioning");
        let headers = signer.sign(FOREIGN_SECRET, "msg_foreign", &body).await;
        assert_eq!(post(&stack.ingress, &headers, &body).await.status, 401, "{signer:?}");
    }

    let db = stack.db().await.unwrap();
    wait_until_applied(&stack, &db).await;
    let mut expected: Vec<&str> = signed.iter().map(|(_, _, job, ..)| job.as_str()).collect();
    expected.sort_unstable();
    let jobs = jobs(&db).await;
    assert_eq!(jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), expected);
    assert!(jobs.iter().all(|job| job.status == Status::Provisioning));
    let metadata = metadata(&stack).await;
    for (signer, key, job, ..) in &signed {
        let metadata = &metadata[job];
        assert_eq!(metadata.speaker, *key, "{job}");
        let id = (signer.scheme() == "standard").then(|| format!("msg_{job}"));
        assert_eq!(metadata.event_id, id, "{job}: the message's id is the idempotency key");
    }

    for scheme in ["plain", "github", "standard"] {
        let narrow = stack.start_ingress_with(&[("SCHEMES", scheme)], &[]).await.unwrap();
        for (signer, _, job, headers, body) in &signed {
            let expected = if signer.scheme() == scheme { 200 } else { 401 };
            assert_eq!(post(&narrow, headers, body).await.status, expected, "{job} as {scheme}");
        }
    }
    wait_until_applied(&stack, &db).await;
    assert_audited(&stack).await;
}

#[tokio::test]
async fn what_ingress_signs_is_verified_by_others() {
    let stack = stack().await;
    let body = json!({ "job_id": "a", "status": "queued", "note": "Köln" }).to_string();
    let file = stack.dir().join("body");
    std::fs::write(&file, &body).unwrap();
    let file = file.display().to_string();
    for (key, secret) in SECRETS {
        for scheme in ["plain", "github", "standard"] {
            let sign = ["sign", "--headers", "--scheme", scheme, "--key", key, "--file", &file];
            let printed = stack.ackline(&sign).await.unwrap();
            let headers: Headers = printed
                .lines()
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            for signer in Signer::ALL.into_iter().filter(|signer| signer.scheme() == scheme) {
                assert!(signer.verifies(secret, &headers, &body).await, "{signer:?}, {key}");
                let other = body.replace("Köln", "Kölm");
                assert!(!signer.verifies(secret, &headers, &other).await, "{signer:?}, {key}");
                assert!(!signer.verifies(FOREIGN_SECRET, &headers, &body).await, "{signer:?}");
            }
            let answer = post(&stack.ingress, &headers, &body).await;
            assert_eq!(answer.status, 200, "{scheme} with {key}");
        }
    }
}
