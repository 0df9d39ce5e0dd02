//! The daemon's command line and its environment twins, all checked before anything starts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::broker::{BrokerArgs, Servers};
use shared::health::HealthArgs;
use shared::secret::{self, ExposeSecret, Secret};
use shared::settings::{InFile, Invalid, Problems, duration, listen_address, number};
use shared::{telemetry, trace};
use url::Url;

use crate::liveness::Silence;
use crate::store::connection::DatabaseUrl;
use crate::web::{Token, WebSettings};

/// Where a worker is looked at by default.
pub const OPS_LISTEN: &str = "127.0.0.1:9081";

const PASSWORD: &str = "--database-password-file (DATABASE_PASSWORD_FILE)";
const TOKEN: &str = "--console-token-file (CONSOLE_TOKEN_FILE)";

/// Applies accepted callbacks, in order per job and exactly once in effect.
#[derive(Debug, Parser)]
#[command(name = "ackline-worker", version)]
pub struct Cli {
    /// What to do other than to apply.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to apply.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What the daemon's program does beside applying.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the running worker on this machine whether it is ready; exits 1 with the reasons if not.
    Health(HealthArgs),
}

/// Where the database is.
#[derive(Debug, Args, Clone)]
pub struct DatabaseArgs {
    /// SQLite file or PostgreSQL server.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:ackline.db?mode=rwc",
        hide_env_values = true,
        value_parser = secret::from_setting
    )]
    pub database_url: Secret<str>,
    /// PostgreSQL's password, if the address holds none; one newline at the end is not part of it.
    #[arg(long, env = "DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub database_password_file: Option<OsString>,
}

/// The settings as texts: only [`RunArgs::check`] reads them, so that all bad ones are named.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Where the console, its API, /livez, /readyz and /metrics are served.
    #[arg(long, env = "OPS_LISTEN", default_value = OPS_LISTEN)]
    pub ops_listen: String,
    /// The file with the token that the console demands; needed where others than this machine can
    /// reach it.
    #[arg(long, env = "CONSOLE_TOKEN_FILE", value_name = "FILE")]
    pub console_token_file: Option<OsString>,
    /// Where the workflows run, for links to their pages: `https://github.com/OWNER/NAME`.
    #[arg(long, env = "REPOSITORY_URL", value_name = "URL")]
    pub repository_url: Option<String>,
    /// The ingresses.
    #[command(flatten)]
    pub ingresses: IngressArgs,
    /// A name of this process for people.
    #[arg(long, env = "WORKER_ID", default_value = "worker")]
    pub worker_id: String,
    /// For how long an owner holds a partition without renewing it.
    #[arg(long, env = "LEASE", default_value = "10s")]
    pub lease: String,
    /// The most callbacks in one transaction.
    #[arg(long, env = "BATCH_MAX", default_value = "500")]
    pub batch_max: String,
    /// How many dead letters may follow each other before the partition stops.
    #[arg(long, env = "DEAD_LETTER_LIMIT", default_value = "20")]
    pub dead_letter_limit: String,
    /// How long what is applied stays in the streams, for restored backups and replays.
    #[arg(long, env = "REPLAY_HORIZON", default_value = "7d")]
    pub replay_horizon: String,
    /// For how long a job in `provisioning` may be silent, if it does not say so itself.
    #[arg(long, env = "HEARTBEAT_TIMEOUT", default_value = "180s")]
    pub heartbeat_timeout: String,
    /// For how long a job may be `queued`.
    #[arg(long, env = "QUEUED_TIMEOUT", default_value = "30m")]
    pub queued_timeout: String,
    /// How long a shutdown may take.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "25s")]
    pub shutdown_grace: String,
}

/// Which ingresses are asked for what they refused.
#[derive(Debug, Args)]
pub struct IngressArgs {
    /// The ops listeners of ingresses, whose refusals are shown: HOST:PORT,…
    #[arg(long, env = "INGRESS_OPS", value_name = "HOST:PORT,…", default_value = "")]
    pub ingress_ops: String,
}

impl DatabaseArgs {
    /// The database, or what is wrong with its settings, which is noted.
    pub fn check(&self, problems: &mut Problems) -> Option<DatabaseUrl> {
        let url: Option<DatabaseUrl> = problems
            .take("--database-url (DATABASE_URL)", self.database_url.expose_secret().parse());
        match InFile::take(problems, PASSWORD, self.database_password_file.as_ref())? {
            None => url,
            Some(file) => problems.take(PASSWORD, url?.with_password(file)),
        }
    }
}

impl IngressArgs {
    /// The ingresses, or what is wrong with their names, which is noted.
    pub fn check(&self, problems: &mut Problems) -> Option<Vec<String>> {
        problems.take("--ingress-ops (INGRESS_OPS)", ingresses(&self.ingress_ops))
    }
}

/// Checked settings.
#[derive(Debug)]
pub struct Run {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// The ops listener's address.
    pub ops_listen: SocketAddr,
    /// The console's token and links.
    pub web: WebSettings,
    /// The ops listeners of ingresses.
    pub ingresses: Vec<String>,
    /// The name for people.
    pub name: String,
    /// The lease.
    pub lease: Duration,
    /// The most callbacks in one transaction.
    pub batch_max: usize,
    /// How many dead letters may follow each other.
    pub dead_letter_limit: i32,
    /// How long what is applied stays in the streams.
    pub replay_horizon: Duration,
    /// When a job counts as silent.
    pub silence: Silence,
    /// How long a shutdown may take.
    pub grace: Duration,
    /// Where spans are exported to.
    pub traces: trace::Settings,
}

impl RunArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Run, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
        let ops_listen =
            problems.take("--ops-listen (OPS_LISTEN)", listen_address(&self.ops_listen));
        let token = self.token(&mut problems, ops_listen);
        let repository = optional(
            &mut problems,
            "--repository-url (REPOSITORY_URL)",
            self.repository_url.as_deref(),
            repository,
        );
        let ingresses = self.ingresses.check(&mut problems);
        let name = problems.take(
            "--worker-id (WORKER_ID)",
            if (1..=100).contains(&self.worker_id.len())
                && !self.worker_id.contains(char::is_control)
            {
                Ok(self.worker_id.clone())
            } else {
                Err("must be 1 to 100 bytes without control characters")
            },
        );
        let lease = problems.take("--lease (LEASE)", duration(&self.lease));
        if lease.is_some_and(|lease| lease < Duration::from_millis(500)) {
            problems.note("--lease (LEASE): must be at least 500ms");
        }
        let batch_max =
            problems.take("--batch-max (BATCH_MAX)", number(&self.batch_max, 1, 10_000));
        let dead_letter_limit = problems.take(
            "--dead-letter-limit (DEAD_LETTER_LIMIT)",
            number(&self.dead_letter_limit, 1, i32::MAX - 100_000),
        );
        let replay_horizon =
            problems.take("--replay-horizon (REPLAY_HORIZON)", duration(&self.replay_horizon));
        let heartbeat = problems
            .take("--heartbeat-timeout (HEARTBEAT_TIMEOUT)", timeout(&self.heartbeat_timeout));
        let queued =
            problems.take("--queued-timeout (QUEUED_TIMEOUT)", timeout(&self.queued_timeout));
        let grace =
            problems.take("--shutdown-grace (SHUTDOWN_GRACE)", duration(&self.shutdown_grace));
        let environment = |name: &str| std::env::var_os(name);
        let traces = trace::Settings::check(&mut problems, environment);
        telemetry::check(&mut problems, environment);
        let checked = (|| {
            Some(Run {
                database: database?,
                servers: servers?,
                ops_listen: ops_listen?,
                web: WebSettings { token: token?, repository: repository? },
                ingresses: ingresses?,
                name: name?,
                lease: lease?,
                batch_max: batch_max?,
                dead_letter_limit: dead_letter_limit?,
                replay_horizon: replay_horizon?,
                silence: Silence { heartbeat: heartbeat?, queued: queued? },
                grace: grace?,
                traces: traces?,
            })
        })();
        problems.finish(checked)
    }

    /// The console's token. Whoever reaches the ops listener from elsewhere must show one.
    fn token(&self, problems: &mut Problems, ops: Option<SocketAddr>) -> Option<Option<Token>> {
        match InFile::take(problems, TOKEN, self.console_token_file.as_ref())? {
            Some(file) => {
                let token = file.password().map_err(|unusable| problems.note(unusable.to_string()));
                problems.take(TOKEN, Token::new(token.ok()?)).map(Some)
            }
            None if ops.is_none_or(|ops| ops.ip().is_loopback()) => Some(None),
            None => {
                problems.note(format!(
                    "{TOKEN}: must name a file with a token, because --ops-listen (OPS_LISTEN) is \
                     not an address of this machine only; or listen on {OPS_LISTEN}"
                ));
                None
            }
        }
    }
}

/// Checks a flag that may be left out.
fn optional<T>(
    problems: &mut Problems,
    name: &str,
    text: Option<&str>,
    check: impl Fn(&str) -> Result<T, String>,
) -> Option<Option<T>> {
    match text {
        None => Some(None),
        Some(text) => problems.take(name, check(text)).map(Some),
    }
}

/// The page of a repository.
fn repository(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| "must be like https://github.com/OWNER/NAME".to_owned())
}

/// Names of ops listeners, by commas.
fn ingresses(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let is_sound = name.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            let why = || format!("{name:?} is not HOST:PORT like 127.0.0.1:9080");
            is_sound.then(|| name.to_owned()).ok_or_else(why)
        })
        .collect()
}

/// A timeout of jobs: shorter ones could not be told from the pauses of a healthy system.
fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout < Duration::from_secs(1) { Err("must be at least 1s".into()) } else { Ok(timeout) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Cli;

    #[test]
    fn every_bad_flag_is_named_at_once_and_no_password_is_shown() {
        let cli = Cli::parse_from([
            "ackline-worker",
            "--database-url",
            "mysql://u:hunter2@h/x",
            "--nats-url",
            "nats://u:hunter2@:x",
            "--ops-listen",
            "nowhere",
            "--lease",
            "0",
            "--batch-max",
            "0",
            "--dead-letter-limit=-1",
            "--replay-horizon",
            "0d",
            "--heartbeat-timeout",
            "999ms",
            "--queued-timeout",
            "0m",
            "--shutdown-grace",
            "soon",
            "--worker-id",
            "",
        ]);
        assert!(!format!("{cli:?}").contains("hunter2"));
        let error = cli.run.check().unwrap_err().to_string();
        for flag in [
            "--database-url",
            "--nats-url",
            "--ops-listen",
            "--lease",
            "--batch-max",
            "--dead-letter-limit",
            "--replay-horizon",
            "--heartbeat-timeout",
            "--queued-timeout",
            "--shutdown-grace",
            "--worker-id",
        ] {
            assert!(error.contains(flag), "{flag} in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}
