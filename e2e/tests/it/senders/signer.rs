//! Software that is not Ackline's, signing and verifying callbacks.

use std::path::PathBuf;
use std::process::Stdio;

use e2e::tools;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::expect::now;

/// The header fields that carry a signature.
pub(super) type Headers = Vec<(String, String)>;

/// Whose software signs, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    /// `openssl dgst`, for `X-Signature`.
    OpensslPlain,
    /// `openssl dgst`, for `X-Hub-Signature-256`.
    OpensslGithub,
    /// `openssl dgst`, for Standard Webhooks.
    OpensslStandard,
    /// npm's `@octokit/webhooks-methods`, for `X-Hub-Signature-256`.
    Octokit,
    /// npm's `standardwebhooks`.
    StandardNode,
    /// PyPI's `standardwebhooks`.
    StandardPython,
}

/// The body comes on standard input and everything else in the environment. Prints the signature.
const OPENSSL_SIGN: &str = "openssl dgst -sha256 -hmac \"$SECRET\" -r | cut -d ' ' -f 1";
const OPENSSL_STANDARD_SIGN: &str = r#"
case $SECRET in
  whsec_*) key=$(printf %s "${SECRET#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n') ;;
  *) key=$(printf %s "$SECRET" | od -An -v -tx1 | tr -d ' \n') ;;
esac
signature=$({ printf %s "$ID.$TIMESTAMP."; cat; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)
printf 'v1,%s' "$signature"
"#;
const OCTOKIT_SIGN: &str = r#"
import { readFileSync } from "node:fs";
import { sign } from "@octokit/webhooks-methods";
process.stdout.write(await sign(process.env.SECRET, readFileSync(0, "utf8")));
"#;
const OCTOKIT_VERIFY: &str = r#"
import { readFileSync } from "node:fs";
import { verify } from "@octokit/webhooks-methods";
const { SECRET, SIGNATURE } = process.env;
process.exit((await verify(SECRET, readFileSync(0, "utf8"), SIGNATURE)) ? 0 : 3);
"#;
const NODE_SIGN: &str = r#"
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";
const { SECRET, ID, TIMESTAMP } = process.env;
const webhook = new Webhook(SECRET, SECRET.startsWith("whsec_") ? {} : { format: "raw" });
process.stdout.write(webhook.sign(ID, new Date(TIMESTAMP * 1000), readFileSync(0, "utf8")));
"#;
const NODE_VERIFY: &str = r#"
import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
const { SECRET, ID, TIMESTAMP, SIGNATURE } = process.env;
const webhook = new Webhook(SECRET, SECRET.startsWith("whsec_") ? {} : { format: "raw" });
const headers = { "webhook-id": ID, "webhook-timestamp": TIMESTAMP, "webhook-signature": SIGNATURE };
try {
    webhook.verify(readFileSync(0, "utf8"), headers);
} catch (error) {
    process.exit(error instanceof WebhookVerificationError ? 3 : 1);
}
"#;
const PYTHON_SIGN: &str = r#"
import os, sys
from datetime import datetime, timezone
from standardwebhooks.webhooks import Webhook
secret, moment = os.environ["SECRET"], datetime.fromtimestamp(int(os.environ["TIMESTAMP"]), timezone.utc)
webhook = Webhook(secret if secret.startswith("whsec_") else secret.encode())
print(webhook.sign(os.environ["ID"], moment, sys.stdin.buffer.read().decode()))
"#;
const PYTHON_VERIFY: &str = r#"
import os, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
secret = os.environ["SECRET"]
webhook = Webhook(secret if secret.startswith("whsec_") else secret.encode())
headers = {"webhook-" + name.lower(): os.environ[name] for name in ("ID", "TIMESTAMP", "SIGNATURE")}
try:
    webhook.verify(sys.stdin.buffer.read(), headers)
except WebhookVerificationError:
    sys.exit(3)
"#;

impl Signer {
    pub(super) const ALL: [Self; 6] = [
        Self::OpensslPlain,
        Self::OpensslGithub,
        Self::OpensslStandard,
        Self::Octokit,
        Self::StandardNode,
        Self::StandardPython,
    ];

    /// Ackline's name of the scheme.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::OpensslPlain => "plain",
            Self::OpensslGithub | Self::Octokit => "github",
            Self::OpensslStandard | Self::StandardNode | Self::StandardPython => "standard",
        }
    }

    /// The header fields that a callback with this body has, signed now.
    pub(super) async fn sign(self, secret: &str, id: &str, body: &str) -> Headers {
        let timestamp = now().timestamp().to_string();
        let signature = self.signature(secret, id, &timestamp, body).await;
        let headers = match self.scheme() {
            "plain" => vec![("x-signature", signature)],
            "github" => vec![("x-hub-signature-256", signature)],
            _ => vec![
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", timestamp),
                ("webhook-signature", signature),
            ],
        };
        headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Whether it finds the signature good.
    pub(super) async fn verifies(self, secret: &str, headers: &Headers, body: &str) -> bool {
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let signature = match self.scheme() {
            "plain" => header("x-signature"),
            "github" => header("x-hub-signature-256"),
            _ => header("webhook-signature"),
        };
        let program = match self {
            // openssl only signs; the comparison is the receiver's.
            Self::OpensslPlain | Self::OpensslGithub | Self::OpensslStandard => {
                return self.signature(secret, &id, &timestamp, body).await == signature;
            }
            Self::Octokit => node(OCTOKIT_VERIFY),
            Self::StandardNode => node(NODE_VERIFY),
            Self::StandardPython => python(PYTHON_VERIFY),
        };
        let env =
            [("SECRET", secret), ("ID", &id), ("TIMESTAMP", &timestamp), ("SIGNATURE", &signature)];
        match run(program, &env, body).await.0 {
            Some(0) => true,
            Some(3) => false,
            other => panic!("{self:?} can't verify: {other:?}"),
        }
    }

    async fn signature(self, secret: &str, id: &str, timestamp: &str, body: &str) -> String {
        let program = match self {
            Self::OpensslPlain | Self::OpensslGithub => shell(OPENSSL_SIGN),
            Self::OpensslStandard => shell(OPENSSL_STANDARD_SIGN),
            Self::Octokit => node(OCTOKIT_SIGN),
            Self::StandardNode => node(NODE_SIGN),
            Self::StandardPython => python(PYTHON_SIGN),
        };
        let env = [("SECRET", secret), ("ID", id), ("TIMESTAMP", timestamp)];
        let (code, signature) = run(program, &env, body).await;
        assert_eq!(code, Some(0), "{self:?} signs");
        if self == Self::OpensslGithub { format!("sha256={signature}") } else { signature }
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-eu", "-o", "pipefail", "-c", script]);
    command
}

fn node(script: &str) -> Command {
    let mut command = Command::new(tools::node().unwrap());
    // What such a script imports is looked for where it runs.
    command.args(["--input-type=module", "--eval", script]).current_dir(senders());
    command
}

fn python(script: &str) -> Command {
    let mut command = Command::new(tools::python());
    command.args(["-B", "-c", script]).env("PYTHONPATH", senders().join("python"));
    command
}

fn senders() -> PathBuf {
    tools::senders().unwrap()
}

/// Runs it with this on its standard input; its exit code and what it prints.
async fn run(mut command: Command, env: &[(&str, &str)], input: &str) -> (Option<i32>, String) {
    let mut child = command
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Dropped when it is written, so that the reader sees the end.
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
}
