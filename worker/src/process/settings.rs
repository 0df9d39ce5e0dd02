//! The daemon's command line and its environment twins, all checked before anything starts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::broker::{BrokerArgs, Servers};
use shared::health::HealthArgs;
use shared::settings::{InFile, Problems, at_least, duration, listen_address, number};
use shared::{telemetry, trace};
use url::Url;

use crate::store::connection::DatabaseUrl;
use crate::web::{Token, WebSettings};

/// Where a worker is looked at by default.
pub const OPS_LISTEN: &str = "127.0.0.1:9081";

/// Renewals need a few round trips to the database within a lease.
const LEAST_LEASE: Duration = Duration::from_millis(500);
/// Shorter timeouts of jobs could not be told from the pauses of a healthy system.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// The database: an SQLite file, as in the default, or a PostgreSQL server:
    /// `postgres://user:password@host:5432/name`.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:ackline.db?mode=rwc",
        hide_env_values = true
    )]
    database_url: DatabaseUrl,
    /// The file with PostgreSQL's password, if the address holds none. One newline at its end is not
    /// part of it.
    #[arg(long, env = "DATABASE_PASSWORD_FILE", value_name = "FILE")]
    database_password_file: Option<OsString>,
}

/// What there is to set.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Where the console, its API, /livez, /readyz and /metrics are served.
    #[arg(long, env = "OPS_LISTEN", default_value = OPS_LISTEN, value_parser = listen_address)]
    pub ops_listen: SocketAddr,
    /// The file with the token that the console demands, at least 16 characters. Required if
    /// `--ops-listen` is not a loopback address.
    #[arg(long, env = "CONSOLE_TOKEN_FILE", value_name = "FILE")]
    pub console_token_file: Option<OsString>,
    /// The repository with the workflows, like `https://github.com/OWNER/NAME`. The console then links
    /// to their runs.
    #[arg(long, env = "REPOSITORY_URL", value_name = "URL", value_parser = repository)]
    pub repository_url: Option<Url>,
    /// The ingresses.
    #[command(flatten)]
    pub ingresses: IngressArgs,
    /// The name of this process for people, in the console and in logs.
    #[arg(long, env = "WORKER_ID", default_value = "worker", value_parser = name)]
    pub worker_id: String,
    /// How long an owner keeps a partition without renewing its lease. After that another worker may
    /// take over.
    #[arg(long, env = "LEASE", default_value = "10s", value_parser = |text: &str| at_least(text, LEAST_LEASE))]
    pub lease: Duration,
    /// The most callbacks in one transaction.
    #[arg(long, env = "BATCH_MAX", default_value = "2000", value_parser = |text: &str| number::<usize>(text, 1, 10_000))]
    pub batch_max: usize,
    /// How many dead letters a partition may have in a row before it stops.
    #[arg(long, env = "DEAD_LETTER_LIMIT", default_value = "20", value_parser = |text: &str| number::<i32>(text, 1, i32::MAX - 100_000))]
    pub dead_letter_limit: i32,
    /// How long the streams keep what is applied, for restored backups and replays. Less if a stream
    /// is over 80 % full.
    #[arg(long, env = "REPLAY_HORIZON", default_value = "7d", value_parser = duration)]
    pub replay_horizon: Duration,
    /// How long a job in `provisioning` may be silent before it is presumed failed, unless its
    /// callbacks say how long.
    #[arg(long, env = "HEARTBEAT_TIMEOUT", default_value = "180s", value_parser = |text: &str| at_least(text, LEAST_TIMEOUT))]
    pub heartbeat_timeout: Duration,
    /// How long a job may be `queued` before it is presumed failed.
    #[arg(long, env = "QUEUED_TIMEOUT", default_value = "30m", value_parser = |text: &str| at_least(text, LEAST_TIMEOUT))]
    pub queued_timeout: Duration,
    /// How long a shutdown may take.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "25s", value_parser = duration)]
    pub shutdown_grace: Duration,
}

/// Which ingresses are asked for what they refused.
#[derive(Debug, Args)]
pub struct IngressArgs {
    /// The operations listeners of the ingresses, comma-separated, to show what they refused.
    #[arg(long, env = "INGRESS_OPS", value_name = "HOST:PORT,…", default_value = "",
          value_parser = ingresses)]
    // Spelt out, it is one value to clap.
    pub ingress_ops: std::vec::Vec<String>,
}

impl DatabaseArgs {
    /// The database, or what is wrong with its settings, which is noted.
    pub fn check(&self, problems: &mut Problems) -> Option<DatabaseUrl> {
        let url = self.database_url.clone();
        match InFile::take(problems, PASSWORD, self.database_password_file.as_ref())? {
            None => Some(url),
            Some(file) => problems.take(PASSWORD, url.with_password(file)),
        }
    }
}

/// Settings that can be used.
#[derive(Debug)]
pub struct Run {
    /// What was set.
    pub args: RunArgs,
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// What the console demands and links to.
    pub web: WebSettings,
    /// Where spans are exported to.
    pub traces: trace::Settings,
}

impl RunArgs {
    /// Checks what belongs together. None on a problem, which is noted.
    pub fn check(self, problems: &mut Problems) -> Option<Run> {
        let database = self.database.check(problems);
        let servers = self.broker.check(problems);
        let token = self.token(problems);
        let environment = |name: &str| std::env::var_os(name);
        let traces = trace::Settings::check(problems, environment);
        telemetry::check(problems, environment);
        let (database, servers, token, traces) = (database?, servers?, token?, traces?);
        let web = WebSettings { token, repository: self.repository_url.clone() };
        Some(Run { args: self, database, servers, web, traces })
    }

    /// The console's token. Whoever reaches the ops listener from elsewhere must show one.
    fn token(&self, problems: &mut Problems) -> Option<Option<Token>> {
        match InFile::take(problems, TOKEN, self.console_token_file.as_ref())? {
            Some(file) => {
                let token = file.password().map_err(|unusable| problems.note(unusable.to_string()));
                problems.take(TOKEN, Token::new(token.ok()?)).map(Some)
            }
            None if self.ops_listen.ip().is_loopback() => Some(None),
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

/// A name for people.
fn name(text: &str) -> Result<String, &'static str> {
    let is_sound = (1..=100).contains(&text.len()) && !text.contains(char::is_control);
    is_sound.then(|| text.to_owned()).ok_or("must be 1 to 100 bytes without control characters")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use shared::settings::{self, Problems};

    use super::Cli;

    #[test]
    fn every_bad_flag_is_named_at_once_and_no_password_is_shown() {
        let args = [
            "--database-url=mysql://u:hunter2@h/x",
            "--nats-url=nats://u:hunter2@:x",
            "--ops-listen=nowhere",
            "--lease=0",
            "--batch-max=0",
            "--dead-letter-limit=-1",
            "--replay-horizon=0d",
            "--heartbeat-timeout=999ms",
            "--queued-timeout=0m",
            "--shutdown-grace=soon",
            "--worker-id=",
            "--database-password-file=",
        ];
        let command_line = [&["ackline-worker"], &args[..]].concat();
        let mut problems = Problems::default();
        let cli: Cli =
            settings::parse(Cli::command(), command_line, &mut problems).unwrap().unwrap();
        let run = cli.run.check(&mut problems);
        let error = problems.finish(run).unwrap_err().to_string();
        for flag in args.map(|arg| arg.split('=').next().unwrap()) {
            assert!(error.contains(flag), "{flag} in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}
