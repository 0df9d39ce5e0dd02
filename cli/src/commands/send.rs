//! `ackline send`: sends one signed callback, with the retries of a workflow.

use std::io::Write;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{ArgGroup, Args};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use serde_json::{Map, Value};
use shared::callback::MAX_HEARTBEAT_TIMEOUT_S;
use shared::https::{self, HttpsClient};
use shared::settings::{Invalid, Problems, duration_or_zero};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use ingress::clock;

use super::sign::{Signer, Signing, random_id};

/// Longer than ingress may take for an answer.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_BYTES: usize = 64 * 1024;
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What to send, and where.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["status", "heartbeat"])))]
pub struct Send {
    /// Where ingress takes callbacks.
    #[arg(long, env = "CALLBACK_URL", default_value = "http://127.0.0.1:8080/api/webhooks/github", value_parser = target)]
    url: Uri,
    /// The job that the callback is about.
    #[arg(long)]
    job_id: String,
    /// The status to report.
    #[arg(long, value_parser = ["queued", "provisioning", "running", "failed"])]
    status: Option<String>,
    /// Report that the job is alive.
    #[arg(long)]
    heartbeat: bool,
    /// The workflow run that sends it.
    #[arg(long)]
    workflow_run_id: Option<String>,
    /// Which attempt of that run.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    run_attempt: Option<i32>,
    /// Why it failed.
    #[arg(long)]
    error: Option<String>,
    /// The step that failed.
    #[arg(long)]
    failed_step: Option<String>,
    /// Who provisions.
    #[arg(long)]
    agent_id: Option<String>,
    /// Where it is provisioned.
    #[arg(long)]
    region: Option<String>,
    /// How many seconds the job may be silent before it is presumed failed.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=MAX_HEARTBEAT_TIMEOUT_S as i64))]
    heartbeat_timeout_s: Option<i32>,
    /// The callback's idempotency key; by default random.
    #[arg(long)]
    event_id: Option<String>,
    /// How to sign.
    #[command(flatten)]
    signing: Signing,
    /// How long to retry; 0 for a single attempt.
    #[arg(long, default_value = "60s", value_parser = duration_or_zero)]
    retry_for: Duration,
}

/// Sends the callback until there is a final answer, and prints that.
///
/// # Errors
/// [`Invalid`] arguments; a refusal; or no acceptance within `--retry-for`.
pub async fn run(args: &Send) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let signer = Signer::new(&args.signing, &mut problems, |name| std::env::var_os(name));
    let sender = Sender::new(args, signer, problems)?;
    let end = Instant::now() + args.retry_for;
    let mut pause = RETRY_MIN;
    loop {
        let (why, wait) = match sender.attempt().await {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                writeln!(std::io::stdout(), "{}", text.trim_end())?;
                if answer.status == StatusCode::OK {
                    return Ok(());
                }
                if !is_retryable(answer.status) {
                    bail!("the callback was refused: {}", answer.status);
                }
                (answer.status.to_string(), answer.retry_after)
            }
            Err(why) => (format!("{why:#}"), None),
        };
        let wait = wait.unwrap_or_default().max(pause);
        if Instant::now().checked_add(wait).is_none_or(|next| next > end) {
            bail!("gave up: {why}");
        }
        writeln!(std::io::stderr(), "trying again in {wait:?}: {why}")?;
        sleep(wait).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

struct Sender {
    address: Uri,
    http: HttpsClient,
    signer: Signer,
    /// The callback's idempotency key, the same for each attempt.
    event_id: String,
    /// The body without the time, which differs with each attempt.
    fields: Map<String, Value>,
}

struct Answered {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Sender {
    fn new(args: &Send, signer: Option<Signer>, mut problems: Problems) -> Result<Self, Invalid> {
        let http = problems.take("--url (CALLBACK_URL)", https::client(&args.url, None));
        let event_id = args.event_id.clone().unwrap_or_else(random_id);
        if let Some(signer) = &signer {
            problems.take("--event-id", signer.check_id(&event_id));
        }
        let fields = fields(args, &event_id);
        // A retry would get the same answer.
        let checked = shared::callback::parse(&body(&fields, DateTime::UNIX_EPOCH));
        problems.take("the callback would be refused", checked);
        let (http, signer) = problems.finish(http.zip(signer))?;
        Ok(Self { address: args.url.clone(), http, signer, event_id, fields })
    }

    async fn attempt(&self) -> anyhow::Result<Answered> {
        let now = clock::now();
        let body = body(&self.fields, now);
        let mut request =
            Request::post(self.address.clone()).header(CONTENT_TYPE, "application/json");
        for (name, value) in self.signer.headers(&body, &self.event_id, now) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let answered = timeout(ATTEMPT_LIMIT, self.exchange(request)).await;
        answered.unwrap_or_else(|_| bail!("no answer within {ATTEMPT_LIMIT:?}"))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answered> {
        let (head, body) = self.http.request(request).await?.into_parts();
        let body =
            Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| anyhow!(error))?;
        let (status, retry_after) = (head.status, retry_after(&head.headers));
        Ok(Answered { status, retry_after, body: body.to_bytes() })
    }
}

fn target(text: &str) -> Result<Uri, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password, which nobody would see: remove it".into());
    }
    match url.scheme() {
        "http" | "https" if url.has_host() => {
            url.as_str().parse().map_err(|error| format!("is not a URL: {error}"))
        }
        _ => Err(format!("\"{text}\" is not a URL like https://host/path")),
    }
}

fn fields(args: &Send, event_id: &str) -> Map<String, Value> {
    let texts = [
        ("job_id", Some(args.job_id.as_str())),
        ("status", args.status.as_deref()),
        ("workflow_run_id", args.workflow_run_id.as_deref()),
        ("error", args.error.as_deref()),
        ("failed_step", args.failed_step.as_deref()),
        ("agent_id", args.agent_id.as_deref()),
        ("region", args.region.as_deref()),
        ("event_id", Some(event_id)),
    ];
    let mut fields: Map<String, Value> = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), Value::from(text?))))
        .collect();
    if args.heartbeat {
        fields.insert("type".into(), "heartbeat".into());
    }
    for (name, number) in
        [("run_attempt", args.run_attempt), ("heartbeat_timeout_s", args.heartbeat_timeout_s)]
    {
        if let Some(number) = number {
            fields.insert(name.to_owned(), number.into());
        }
    }
    fields
}

fn body(fields: &Map<String, Value>, sent_at: DateTime<Utc>) -> Vec<u8> {
    let mut fields = fields.clone();
    let sent_at = sent_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    fields.insert("sent_at".into(), sent_at.into());
    Value::Object(fields).to_string().into_bytes()
}

/// The statuses that pass by themselves, the same as in the action's `send.sh`: those that
/// `curl --retry` retries, too early, overloaded, and what proxies answer for a server that they do
/// not reach (520 to 525 and 530 are Cloudflare's).
fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504 | 520..=525 | 529 | 530 | 598 | 599)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use shared::callback::{Kind, Status, parse};

    use super::*;
    use crate::{Cli, Command};

    fn sender(args: &[&str]) -> Result<Sender, String> {
        let args = [&["ackline", "send"], args].concat();
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        let Command::Send(args) = cli.command else { panic!("not send") };
        let variable = |name: &str| (name == "CALLBACK_SECRET").then(|| "s".into());
        let mut problems = Problems::default();
        let signer = Signer::new(&args.signing, &mut problems, variable);
        Sender::new(&args, signer, problems).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_sent_is_a_callback() {
        let sender = sender(&[
            "--job-id=j",
            "--status=failed",
            "--workflow-run-id=7",
            "--run-attempt=2",
            "--error=quota",
            "--failed-step=apply",
            "--heartbeat-timeout-s=7200",
            "--url=http://[::1]:80/hook?x=1",
        ])
        .unwrap();
        let now = DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
        let callback = parse(&body(&sender.fields, now)).unwrap();
        assert_eq!(callback.kind, Kind::Status(Status::Failed));
        assert_eq!(callback.workflow_run_id.as_deref(), Some("7"));
        assert_eq!(callback.run_attempt, Some(2));
        assert_eq!(callback.failed_step.as_deref(), Some("apply"));
        assert_eq!(callback.heartbeat_timeout_s, Some(7200));
        assert_eq!(callback.sent_at, Some(now));
        // Each attempt is made from the same fields.
        assert!(callback.event_id.is_some_and(|id| id.len() == 32));
        assert_eq!(sender.address, "http://[::1]/hook?x=1");
    }

    #[test]
    fn a_heartbeat_needs_no_status() {
        let sender = sender(&["--job-id=j", "--heartbeat", "--event-id=e"]).unwrap();
        let callback = parse(&body(&sender.fields, DateTime::UNIX_EPOCH)).unwrap();
        assert_eq!((callback.kind, callback.event_id), (Kind::Heartbeat, Some("e".into())));
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let retried = (400..1000).filter(|code| is_retryable(StatusCode::from_u16(*code).unwrap()));
        let expected =
            [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 529, 530, 598, 599];
        assert_eq!(retried.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn bad_arguments_are_named() {
        for (args, named) in [
            (&["--job-id=j"][..], "--status"),
            (&["--job-id=j", "--status=done"], "provisioning"),
            (&["--job-id=j", "--status=running", "--heartbeat"], "cannot be used with"),
            (&["--heartbeat"], "--job-id"),
            (&["--job-id=", "--heartbeat"], "Missing job_id"),
            (&["--job-id=a\nb", "--heartbeat"], "Invalid job_id"),
            (&["--job-id=j", "--heartbeat", "--event-id="], "Invalid event_id"),
            (&["--job-id=j", "--heartbeat", "--run-attempt=0"], "--run-attempt"),
            (&["--job-id=j", "--heartbeat", "--url=ftp://x/"], "--url"),
            (&["--job-id=j", "--heartbeat", "--url=http://a:b@x/"], "user or a password"),
            (&["--job-id=j", "--heartbeat", "--url=x"], "--url"),
            (&["--job-id=j", "--heartbeat", "--scheme=sha1"], "--scheme"),
            (&["--job-id=j", "--heartbeat", "--key=other"], "--key"),
            (&["--job-id=j", "--heartbeat", "--scheme=standard", "--event-id=a b"], "--event-id"),
            (&["--job-id=j", "--heartbeat", "--retry-for=never"], "--retry-for"),
        ] {
            let problem = sender(args).err().expect("refused");
            assert!(problem.contains(named), "{args:?}: {problem}");
        }
        assert!(sender(&["--job-id=j", "--heartbeat", "--retry-for=0"]).is_ok());
    }
}
