//! The command line and its environment twins, checked whole before anything binds.

mod certificate;
mod limits;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::broker::{BrokerArgs, Servers};
use shared::health::HealthArgs;
use shared::settings::{InFile, Problems, duration, duration_or_zero, listen_address, yes_or_no};
use shared::{telemetry, trace};
use tokio_rustls::rustls::ServerConfig;

pub(crate) use self::certificate::TlsFiles;
pub(crate) use self::limits::Limits;

use crate::secrets::{MIN_BYTES, Named, Secrets, SecretsArgs};
use crate::signature::{Keys, ReplayWindow, Scheme};

/// Where ingress is looked at by default.
pub const OPS_LISTEN: &str = "127.0.0.1:9080";

/// Takes signed callbacks over HTTP and stores them in the stream.
///
/// Without a command it serves. Secrets come from the environment: CALLBACK_SECRET,
/// GITHUB_CALLBACK_SECRET, CALLBACK_SECRETS (id:secret,id:secret), and from the file
/// CALLBACK_SECRETS_FILE; all that are set are active.
#[derive(Debug, Parser)]
#[command(name = "ackline-ingress", version)]
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
    /// Ask the running ingress on this machine whether it is ready; exits 1 with the reasons if not.
    Health(HealthArgs),
}

/// What there is to set.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where ingress takes callbacks.
    #[arg(long, env = "INGRESS_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Where ingress serves /livez, /readyz and /metrics.
    #[arg(long, env = "OPS_LISTEN", default_value = OPS_LISTEN, value_parser = listen_address)]
    pub ops_listen: SocketAddr,
    /// The broker.
    #[command(flatten)]
    broker: BrokerArgs,
    /// The path that takes callbacks.
    #[arg(long, env = "CALLBACK_PATH", default_value = "/api/webhooks/github", value_parser = path)]
    pub callback_path: String,
    /// The files that hold secrets.
    #[command(flatten)]
    secrets: SecretsArgs,
    /// Take secrets of fewer than 16 bytes, which can be guessed.
    #[arg(long, env = "ALLOW_SHORT_SECRETS", default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_parser = yes_or_no)]
    allow_short_secrets: bool,
    /// The signature schemes that are allowed: plain, github, standard.
    #[arg(long, env = "SCHEMES", default_value = "plain,github,standard", value_delimiter = ',')]
    schemes: Vec<Scheme>,
    /// How far `sent_at` and `webhook-timestamp` may be from this machine's clock, in both directions.
    #[arg(long, env = "REPLAY_WINDOW", default_value = "300s", value_parser = duration)]
    replay_window: Duration,
    /// Refuse callbacks that have neither `sent_at` nor `webhook-timestamp`, unless their key is
    /// `untimed`.
    #[arg(long, env = "REQUIRE_TIMESTAMP", default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_parser = yes_or_no)]
    require_timestamp: bool,
    /// The certificate chain for HTTPS, in PEM. Ingress reads it again on SIGHUP. Without it ingress
    /// speaks HTTP.
    #[arg(long, env = "TLS_CERT")]
    tls_cert: Option<OsString>,
    /// The certificate's key, in PEM.
    #[arg(long, env = "TLS_KEY")]
    tls_key: Option<OsString>,
    /// What bounds a request.
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// How long ingress still takes callbacks after /readyz has turned 503. Set it above the time that
    /// the load balancer needs to notice. 0 stops at once.
    #[arg(long, env = "DRAIN_DELAY", default_value = "0s", value_parser = duration_or_zero)]
    pub(crate) drain_delay: Duration,
    /// How long a shutdown may take, including the drain.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "25s", value_parser = duration)]
    pub(crate) shutdown_grace: Duration,
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Config {
    /// What was set.
    pub args: ServeArgs,
    /// The broker.
    pub(crate) servers: Servers,
    /// Where the active keys come from.
    pub(crate) key_source: KeySource,
    /// The active keys.
    pub(crate) keys: Keys,
    /// Where the certificate comes from, and what it is; none for HTTP.
    pub(crate) tls: Option<(TlsFiles, Arc<ServerConfig>)>,
    /// Where spans are exported to.
    pub(crate) traces: trace::Settings,
}

/// What the active keys are made of, again and again.
#[derive(Debug)]
pub(crate) struct KeySource {
    secrets: Secrets,
    schemes: Vec<Scheme>,
    window: ReplayWindow,
}

impl KeySource {
    /// Reads the secrets as they are now.
    ///
    /// # Errors
    /// What is wrong with them: keep the keys that there are.
    pub(crate) fn load(&self) -> Result<Keys, String> {
        self.secrets.load().map(|active| self.keys(active)).map_err(|unusable| unusable.what)
    }

    fn keys(&self, active: Vec<Named>) -> Keys {
        Keys::new(active, &self.schemes, self.window)
    }
}

impl ServeArgs {
    /// Checks what belongs together; `variable` reads the environment, for what has no flag. None on
    /// a problem, which is noted.
    pub fn check(
        self,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<Config> {
        if self.drain_delay >= self.shutdown_grace {
            problems.note("--drain-delay: must be below --shutdown-grace, which includes it");
        }
        let servers = self.broker.check(problems);
        let tls = self.tls(problems);
        let shortest = if self.allow_short_secrets { 1 } else { MIN_BYTES };
        let secrets = Secrets::check(&self.secrets, shortest, problems, &variable);
        let traces = trace::Settings::check(problems, &variable);
        telemetry::check(problems, &variable);
        let (secrets, active) = secrets?;
        let window =
            ReplayWindow { window: self.replay_window, require_timestamp: self.require_timestamp };
        let key_source = KeySource { secrets, schemes: self.schemes.clone(), window };
        let keys = key_source.keys(active);
        let (servers, tls, traces) = (servers?, tls?, traces?);
        Some(Config { args: self, servers, key_source, keys, tls, traces })
    }

    /// Nothing on a problem, which is noted; otherwise whether there is TLS.
    fn tls(&self, problems: &mut Problems) -> Option<Option<(TlsFiles, Arc<ServerConfig>)>> {
        let files = match (&self.tls_cert, &self.tls_key) {
            (None, None) => return Some(None),
            (Some(cert), Some(key)) if !cert.is_empty() && !key.is_empty() => {
                let file = |setting, path: &OsString| InFile { setting, path: path.into() };
                TlsFiles { cert: file("--tls-cert", cert), key: file("--tls-key", key) }
            }
            _ => {
                problems.note("--tls-cert and --tls-key: set both, or none for HTTP");
                return None;
            }
        };
        match files.load() {
            Ok(config) => Some(Some((files, config))),
            Err(problem) => {
                problems.note(problem.to_string());
                None
            }
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    let sound = text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if sound { Ok(text.to_owned()) } else { Err(format!("\"{text}\" is not a path like /hook")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use shared::settings::{self, Invalid};

    use super::*;

    fn check(args: &[&str], secrets: &[(&str, &str)]) -> Result<Config, Invalid> {
        let mut problems = Problems::default();
        let args = [&["ingress"], args].concat();
        let cli: Cli = settings::parse(Cli::command(), args, &mut problems).unwrap().unwrap();
        let config = cli.serve.check(&mut problems, |name| {
            let secret = secrets.iter().find(|(known, _)| *known == name);
            secret.map(|(_, value)| OsString::from(*value))
        });
        problems.finish(config)
    }

    #[test]
    fn no_two_settings_share_a_name() {
        Cli::command().debug_assert();
    }

    const SECRET: (&str, &str) = ("CALLBACK_SECRET", "0123456789abcdef");

    #[test]
    fn the_defaults_can_be_used_with_any_secret() {
        for secret in [SECRET, ("GITHUB_CALLBACK_SECRET", SECRET.1)] {
            let config = check(&[], &[secret]).unwrap();
            assert_eq!(config.args.callback_path, "/api/webhooks/github");
            assert_eq!(config.args.limits.max_body_bytes, 65_536);
            assert!(!config.keys.window().require_timestamp);
            assert_eq!(config.keys.schemes(), Scheme::ALL);
            assert!(config.tls.is_none());
        }
        let both = check(&[], &[SECRET, ("GITHUB_CALLBACK_SECRET", "fedcba9876543210")]).unwrap();
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
            "--allow-short-secrets=perhaps",
            "--schemes=plain,sha1",
            "--max-connections=0",
            "--silence-timeout=0",
            "--max-header-bytes=8191",
            "--idle-timeout=x",
            "--write-timeout=x",
            "--max-in-flight=many",
            "--drain-delay=x",
            "--shutdown-grace=x",
            "--secrets-file=/nowhere/secrets",
            "--tls-cert=/nowhere/cert",
        ];
        let variables = [
            ("CALLBACK_SECRET", ""),
            ("LOG_FORMAT", "yaml"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ];
        let problems = check(&args, &variables).unwrap_err().to_string();
        let names = args.map(|arg| arg.split('=').next().unwrap());
        for name in names.into_iter().chain(variables.map(|(name, _)| name)) {
            let named = if name == "--secrets-file" { "CALLBACK_SECRETS_FILE" } else { name };
            assert!(problems.contains(named), "{name} in {problems}");
        }
        assert!(problems.contains("CALLBACK_SECRET: is set but empty"), "{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn a_body_limit_that_fits_no_bundle_is_refused() {
        assert!(check(&["--max-body-bytes=520192"], &[SECRET]).is_ok());
        assert!(check(&["--max-body-bytes=520193"], &[SECRET]).is_err());
    }

    #[test]
    fn schemes_are_a_list() {
        let some = check(&["--schemes=standard, github "], &[SECRET]).unwrap();
        assert_eq!(some.keys.schemes(), [Scheme::Standard, Scheme::GitHub]);
        for bad in ["--schemes=", "--schemes=plain,"] {
            assert!(check(&[bad], &[SECRET]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timestamp_can_be_required_with_or_without_a_value() {
        for flag in ["--require-timestamp", "--require-timestamp=yes"] {
            let config = check(&[flag], &[SECRET]).unwrap();
            assert!(config.keys.window().require_timestamp);
        }
    }

    #[test]
    fn short_secrets_can_be_allowed() {
        let short = [("CALLBACK_SECRET", "s")];
        let problem = check(&[], &short).unwrap_err().to_string();
        assert!(problem.contains("CALLBACK_SECRET: is shorter than 16 bytes"), "{problem}");
        assert!(check(&["--allow-short-secrets"], &short).is_ok());
    }

    #[test]
    fn the_drain_is_a_part_of_the_grace() {
        assert!(check(&["--drain-delay=24s"], &[SECRET]).is_ok());
        assert!(check(&["--drain-delay=0"], &[SECRET]).unwrap().args.drain_delay.is_zero());
        let problem = check(&["--drain-delay=25s"], &[SECRET]).unwrap_err().to_string();
        assert!(problem.contains("--drain-delay: must be below --shutdown-grace"), "{problem}");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        for some in
            [&["--tls-cert=/nowhere"][..], &["--tls-key=/nowhere"], &["--tls-cert=", "--tls-key="]]
        {
            let problem = check(some, &[SECRET]).unwrap_err().to_string();
            assert!(problem.contains("--tls-cert and --tls-key: set both"), "{problem}");
        }
        let directory = tempfile::tempdir().unwrap();
        let no_pem = directory.path().join("file");
        std::fs::write(&no_pem, "hunter2").unwrap();
        let no_pem = no_pem.display();
        for (cert, key, expected) in [
            ("/nowhere", "/nowhere", "--tls-cert: /nowhere can't be read".to_owned()),
            (
                &*no_pem.to_string(),
                "/nowhere",
                format!("--tls-cert: {no_pem} holds no certificate in PEM"),
            ),
        ] {
            let args = [format!("--tls-cert={cert}"), format!("--tls-key={key}")];
            let problem = check(&args.each_ref().map(String::as_str), &[SECRET]).unwrap_err();
            assert!(problem.to_string().contains(&expected), "{problem}");
        }
    }
}
