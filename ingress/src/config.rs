//! The command line and its environment twins, checked whole before anything binds.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::broker::Servers;
use shared::bundle;
use shared::config::{Invalid, Problems, duration, listen_address, number};

use crate::send::SendArgs;
use crate::sign::SignArgs;
use crate::signature::{Keys, ReplayWindow, Secret};

/// The environment variables that hold secrets, and the ids that their keys have in metadata.
/// There are no flags for them: a command line is visible to every user of the machine.
pub const SECRETS: [(&str, &str); 2] =
    [("CALLBACK_SECRET", "callback"), ("GITHUB_CALLBACK_SECRET", "github-callback")];

/// The largest body that fits a bundle with its metadata.
const LARGEST_BODY: usize = bundle::MAX_BYTES - bundle::MAX_METADATA_BYTES;

/// Takes signed callbacks over HTTP and stores them in the stream.
///
/// Without a command it serves. Secrets come from the environment: CALLBACK_SECRET and
/// GITHUB_CALLBACK_SECRET; all that are set are active.
#[derive(Debug, Parser)]
#[command(name = "ingress", version)]
pub struct Cli {
    /// What to do other than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What ingress does beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the X-Signature of a body.
    Sign(SignArgs),
    /// Send a signed callback, as the workflow does.
    Send(Box<SendArgs>),
}

/// The settings as texts: only [`ServeArgs::check`] reads them, so that all bad ones are named.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where callbacks arrive.
    #[arg(long, env = "INGRESS_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:9080")]
    ops_listen: String,
    /// The broker's addresses, separated by commas.
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    nats_url: String,
    /// The path of callbacks.
    #[arg(long, env = "CALLBACK_PATH", default_value = "/api/webhooks/github")]
    callback_path: String,
    /// The largest body.
    #[arg(long, env = "MAX_BODY_BYTES", default_value = "65536")]
    max_body_bytes: String,
    /// How long a body may take to arrive.
    #[arg(long, env = "BODY_TIMEOUT", default_value = "10s")]
    body_timeout: String,
    /// How long a request's head may take to arrive, and how long a connection may idle; keep it
    /// above the load balancer's idle limit.
    #[arg(long, env = "HEADER_TIMEOUT", default_value = "75s")]
    header_timeout: String,
    /// How long a sender waits for the stream's confirmation before it is told 503.
    #[arg(long, env = "PUBLISH_DEADLINE", default_value = "12s")]
    publish_deadline: String,
    /// How far a callback's sent_at may be from this machine's clock, in both directions.
    #[arg(long, env = "REPLAY_WINDOW", default_value = "300s")]
    replay_window: String,
    /// Refuse callbacks without sent_at.
    #[arg(long, env = "REQUIRE_TIMESTAMP", default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    require_timestamp: String,
    /// The most connections; more wait to be accepted.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "4096")]
    max_connections: String,
    /// The most requests being worked on; more are told 503 at once.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "1024")]
    max_in_flight: String,
    /// How long the end may take.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "25s")]
    shutdown_grace: String,
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Config {
    /// Where callbacks arrive.
    pub listen: SocketAddr,
    /// Where operators look.
    pub ops_listen: SocketAddr,
    /// The broker.
    pub servers: Servers,
    /// The active keys.
    pub keys: Keys,
    /// The path of callbacks.
    pub callback_path: String,
    /// What bounds a request.
    pub limits: Limits,
    /// How long the end may take.
    pub shutdown_grace: Duration,
}

/// What bounds a request and all of them together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body.
    pub max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a head may take to arrive, and a connection may idle.
    pub header_timeout: Duration,
    /// How long a callback waits for its confirmation.
    pub publish_deadline: Duration,
    /// Which times of sending are believed.
    pub replay_window: ReplayWindow,
    /// The most connections.
    pub max_connections: usize,
    /// The most requests being worked on.
    pub max_in_flight: usize,
}

impl ServeArgs {
    /// Checks every setting; `variable` reads the environment, for the secrets.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn check(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Config, Invalid> {
        let mut problems = Problems::default();
        let mut at_most = |name, text: &str, max| problems.take(name, number(text, 1, max));
        let max_body_bytes = at_most("--max-body-bytes", &self.max_body_bytes, LARGEST_BODY);
        let max_connections = at_most("--max-connections", &self.max_connections, 1_000_000);
        let max_in_flight = at_most("--max-in-flight", &self.max_in_flight, 1_000_000);
        let mut time = |name, text| problems.take(name, duration(text));
        let body_timeout = time("--body-timeout", &self.body_timeout);
        let header_timeout = time("--header-timeout", &self.header_timeout);
        let publish_deadline = time("--publish-deadline", &self.publish_deadline);
        let replay_window = time("--replay-window", &self.replay_window);
        let shutdown_grace = time("--shutdown-grace", &self.shutdown_grace);
        let require_timestamp =
            problems.take("--require-timestamp", yes_or_no(&self.require_timestamp));
        let listen = problems.take("--listen", listen_address(&self.listen));
        let ops_listen = problems.take("--ops-listen", listen_address(&self.ops_listen));
        let servers = problems.take("--nats-url", self.nats_url.parse());
        let callback_path = problems.take("--callback-path", path(&self.callback_path));
        let secrets = secrets(&mut problems, variable);

        let config = (|| {
            Some(Config {
                listen: listen?,
                ops_listen: ops_listen?,
                servers: servers?,
                keys: Keys::new(secrets),
                callback_path: callback_path?,
                limits: Limits {
                    max_body_bytes: max_body_bytes?,
                    body_timeout: body_timeout?,
                    header_timeout: header_timeout?,
                    publish_deadline: publish_deadline?,
                    replay_window: ReplayWindow {
                        window: replay_window?,
                        require_timestamp: require_timestamp?,
                    },
                    max_connections: max_connections?,
                    max_in_flight: max_in_flight?,
                },
                shutdown_grace: shutdown_grace?,
            })
        })();
        problems.finish(config)
    }
}

/// The secret that `sign` and `send` use: the first that is set.
///
/// # Errors
/// When none is set, or one that is set is empty.
pub fn signing_secret(variable: impl Fn(&str) -> Option<OsString>) -> Result<Secret, Invalid> {
    let mut problems = Problems::default();
    let secret = secrets(&mut problems, variable).into_iter().next();
    problems.finish(secret.map(|(_, secret)| secret))
}

fn secrets(
    problems: &mut Problems,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, Secret)> {
    let set: Vec<_> =
        SECRETS.into_iter().filter_map(|(name, id)| Some((name, id, variable(name)?))).collect();
    if set.is_empty() {
        let names = SECRETS.map(|(name, _)| name).join(" or ");
        problems.note(format!("no secret is set: set {names} in the environment"));
    }
    set.into_iter()
        .filter_map(|(name, id, value)| {
            Some((id, problems.take(name, Secret::new(value.into_vec()))?))
        })
        .collect()
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

fn path(text: &str) -> Result<String, String> {
    let sound = text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if sound { Ok(text.to_owned()) } else { Err(format!("\"{text}\" is not a path like /hook")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], secrets: &[(&str, &str)]) -> Result<Config, Invalid> {
        let cli = Cli::try_parse_from([&["ingress"], args].concat()).unwrap();
        cli.serve.check(|name| {
            let secret = secrets.iter().find(|(known, _)| *known == name);
            secret.map(|(_, value)| OsString::from(*value))
        })
    }

    const SECRET: (&str, &str) = ("CALLBACK_SECRET", "s");

    #[test]
    fn the_defaults_can_be_used_with_any_secret() {
        for secret in [SECRET, ("GITHUB_CALLBACK_SECRET", "s")] {
            let config = check(&[], &[secret]).unwrap();
            assert_eq!(config.callback_path, "/api/webhooks/github");
            assert_eq!(config.limits.max_body_bytes, 65_536);
            assert!(!config.limits.replay_window.require_timestamp);
        }
        let both = check(&[], &[SECRET, ("GITHUB_CALLBACK_SECRET", "t")]).unwrap();
        assert_eq!(format!("{:?}", both.keys), r#"{"callback", "github-callback"}"#);
    }

    #[test]
    fn every_bad_setting_is_named_at_once() {
        let args = [
            "--listen=x",
            "--ops-listen=y",
            "--nats-url=nats://user:hunter2@:1",
            "--callback-path=hook",
            "--max-body-bytes=0",
            "--body-timeout=0",
            "--header-timeout=soon",
            "--publish-deadline=",
            "--replay-window=-1",
            "--require-timestamp=maybe",
            "--max-connections=0",
            "--max-in-flight=many",
            "--shutdown-grace=x",
        ];
        let problems = check(&args, &[("CALLBACK_SECRET", "")]).unwrap_err().to_string();
        for arg in args {
            let name = arg.split('=').next().unwrap();
            assert!(problems.contains(&format!("{name}: ")), "{name} in {problems}");
        }
        assert!(problems.contains("CALLBACK_SECRET: is set but empty"), "{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn without_a_secret_nothing_starts() {
        let problems = check(&[], &[]).unwrap_err().to_string();
        assert!(problems.contains("CALLBACK_SECRET or GITHUB_CALLBACK_SECRET"), "{problems}");
        let one_empty = check(&[], &[SECRET, ("GITHUB_CALLBACK_SECRET", "")]).unwrap_err();
        assert!(one_empty.to_string().contains("GITHUB_CALLBACK_SECRET"), "{one_empty}");
    }

    #[test]
    fn a_body_limit_that_fits_no_bundle_is_refused() {
        let largest = format!("--max-body-bytes={LARGEST_BODY}");
        assert!(check(&[&largest], &[SECRET]).is_ok());
        let larger = format!("--max-body-bytes={}", LARGEST_BODY + 1);
        assert!(check(&[&larger], &[SECRET]).is_err());
    }

    #[test]
    fn a_timestamp_can_be_required_with_or_without_a_value() {
        for flag in ["--require-timestamp", "--require-timestamp=yes"] {
            let config = check(&[flag], &[SECRET]).unwrap();
            assert!(config.limits.replay_window.require_timestamp);
        }
    }
}
