//! `ackline sign`: prints the signature of a body.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use shared::settings::Problems;

use ingress::clock;
use ingress::secrets::{SecretsArgs, signing_key};
use ingress::signature::{
    GITHUB_HEADER, PLAIN_HEADER, STANDARD_HEADER, STANDARD_ID_HEADER, STANDARD_TIMESTAMP_HEADER,
    Scheme, SigningKey, is_message_id,
};

/// How to sign.
#[derive(Debug, Args)]
pub struct Signing {
    /// How to sign: plain, github or standard.
    #[arg(long, default_value = "plain")]
    scheme: Scheme,
    /// The id of the secret to sign with; by default the first that is set.
    #[arg(long)]
    key: Option<String>,
    /// The files that hold secrets.
    #[command(flatten)]
    secrets: SecretsArgs,
}

/// What to sign.
#[derive(Debug, Args)]
pub struct Sign {
    /// The body; by default standard input. It is signed as it is, including a trailing newline.
    #[arg(long)]
    file: Option<PathBuf>,
    /// How to sign.
    #[command(flatten)]
    signing: Signing,
    /// The webhook-id of Standard Webhooks; by default random.
    #[arg(long)]
    id: Option<String>,
    /// The webhook-timestamp of Standard Webhooks, in Unix seconds; by default now.
    #[arg(long)]
    timestamp: Option<i64>,
    /// Print whole headers, one a line, as `curl -H @-` takes them. Standard Webhooks has three,
    /// and always prints them.
    #[arg(long)]
    headers: bool,
}

/// A secret, and the scheme to use it in.
pub(crate) struct Signer {
    key: SigningKey,
    scheme: Scheme,
}

impl Signer {
    /// Checks the settings for signing; nothing on a problem, which is noted.
    pub(crate) fn new(
        signing: &Signing,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<Self> {
        let id = signing.key.as_deref();
        let key = signing_key(&signing.secrets, id, problems, variable);
        Some(Self { key: key?, scheme: signing.scheme })
    }

    /// Checks the signed id, if the scheme has one.
    pub(crate) fn check_id(&self, id: &str) -> Result<(), &'static str> {
        if self.scheme == Scheme::Standard && !is_message_id(id) {
            return Err("in Standard Webhooks it is 1 to 128 letters, digits, _, . and -");
        }
        Ok(())
    }

    /// The headers that sign a body; the id and the time only if the scheme has them.
    pub(crate) fn headers(
        &self,
        body: &[u8],
        id: &str,
        at: DateTime<Utc>,
    ) -> Vec<(&'static str, String)> {
        let Self { key, scheme } = self;
        match scheme {
            Scheme::Plain => vec![(PLAIN_HEADER, key.sign_plain(body))],
            Scheme::GitHub => vec![(GITHUB_HEADER, key.sign_github(body))],
            Scheme::Standard => vec![
                (STANDARD_ID_HEADER, id.to_owned()),
                (STANDARD_TIMESTAMP_HEADER, at.timestamp().to_string()),
                (STANDARD_HEADER, key.sign_standard(id, at, body)),
            ],
        }
    }
}

/// A random idempotency key.
pub(crate) fn random_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Prints the signature.
///
/// # Errors
/// There is no secret or no body.
pub fn run(args: &Sign) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let signer = Signer::new(&args.signing, &mut problems, |name| std::env::var_os(name));
    let at = match args.timestamp {
        Some(seconds) => {
            let at = DateTime::from_timestamp(seconds, 0).filter(|_| seconds >= 0);
            problems.take("--timestamp", at.ok_or("is not a number of Unix seconds"))
        }
        None => Some(clock::now()),
    };
    let id = args.id.clone().unwrap_or_else(random_id);
    if let Some(signer) = &signer {
        problems.take("--id", signer.check_id(&id));
    }
    let (signer, at) = problems.finish(signer.zip(at))?;
    let body = match &args.file {
        Some(file) => std::fs::read(file)
            .with_context(|| format!("the body can't be read from {}", file.display()))?,
        None => {
            let mut body = Vec::new();
            let read = std::io::stdin().read_to_end(&mut body);
            read.context("the body can't be read from standard input")?;
            body
        }
    };
    let mut out = std::io::stdout().lock();
    match &signer.headers(&body, &id, at)[..] {
        [(_, signature)] if !args.headers => writeln!(out, "{signature}")?,
        headers => {
            for (name, value) in headers {
                writeln!(out, "{name}: {value}")?;
            }
        }
    }
    Ok(())
}
