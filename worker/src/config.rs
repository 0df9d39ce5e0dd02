//! The command line: flags with environment twins, all checked before anything starts.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::broker::Servers;
use shared::config::{Invalid, Problems, duration, listen_address, number};
use shared::partition::{MAX_PARTITIONS, Partition};

use crate::entity::job::Status;
use crate::event::Position;
use crate::store::connection::DatabaseUrl;

/// Applies accepted callbacks, in order per job and exactly once in effect.
#[derive(Debug, Parser)]
#[command(name = "worker", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the worker's binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the schema and the streams, or check them.
    Migrate(MigrateArgs),
    /// Consume the streams and apply them.
    Run(RunArgs),
    /// Remove finished jobs that are old and of which the streams hold nothing any more.
    Prune(PruneArgs),
    /// Look at partitions, and let a stopped one go on.
    Partitions {
        /// What to do.
        #[command(subcommand)]
        command: PartitionsCommand,
    },
    /// Look at jobs.
    Jobs {
        /// What to look at.
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Look at what could not be applied, and decide what becomes of it.
    DeadLetters {
        /// What to do.
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
}

/// `worker dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters and what is held behind them, oldest first.
    List {
        /// Only those of this job.
        #[arg(long)]
        job: Option<String>,
        /// Discarded ones, too.
        #[arg(long)]
        discarded: bool,
        /// How many at the most.
        #[arg(long, default_value = "50")]
        limit: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show one with its payload.
    Show {
        /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
        position: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Try one again, and then what is held behind it, in order.
    Requeue(OrderArgs),
    /// Let one take no effect, and apply what is held behind it, in order.
    Discard(OrderArgs),
}

/// `worker dead-letters requeue` and `discard`.
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
    pub position: String,
    /// The broker, through which the owner of the partition is told.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// How long to wait until it is carried out.
    #[arg(long, default_value = "10s")]
    pub wait: String,
    /// The database and the form of the output.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `worker partitions`.
#[derive(Debug, Subcommand)]
pub enum PartitionsCommand {
    /// List partitions: who owns each, how far it is applied, and why it is stopped.
    List(ListPartitionsArgs),
    /// Let a stopped partition go on from its stream as it is. Without --yes, only say what that
    /// would skip.
    Accept(AcceptArgs),
}

/// `worker partitions list`.
#[derive(Debug, Args)]
pub struct ListPartitionsArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker; the streams' positions are left out while it can't be reached.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `worker partitions accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The partition's number.
    pub partition: String,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Do it.
    #[arg(long)]
    pub yes: bool,
    /// Print JSON instead of sentences.
    #[arg(long)]
    pub json: bool,
}

/// `worker jobs`.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, the ones that changed last first.
    List {
        /// Only jobs in this status: queued, provisioning, running or failed.
        #[arg(long)]
        status: Option<String>,
        /// How many at the most.
        #[arg(long, default_value = "50")]
        limit: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show one job with its timeline.
    Show {
        /// The job's id.
        id: String,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// Where the database is.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// SQLite file or PostgreSQL server.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:ackline.db?mode=rwc",
        hide_env_values = true
    )]
    pub database_url: String,
}

/// Where the broker is.
#[derive(Args, Clone)]
pub struct BrokerArgs {
    /// Addresses of the NATS servers, comma-separated.
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,
}

// Both may hold a password.
impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseArgs")
    }
}

impl std::fmt::Debug for BrokerArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BrokerArgs")
    }
}

/// What the reading commands share.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `worker migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Copies of each stream. Without it existing streams keep theirs, and new ones have 1.
    #[arg(long, env = "STREAM_REPLICAS")]
    pub stream_replicas: Option<String>,
    /// The size limit of each stream, in bytes. Without it existing streams keep theirs, and new
    /// ones have 268435456 (256 MiB).
    #[arg(long, env = "STREAM_MAX_BYTES")]
    pub stream_max_bytes: Option<String>,
    /// How many partitions there are; chosen once. 16 on a new deployment.
    #[arg(long, env = "PARTITIONS")]
    pub partitions: Option<String>,
}

/// `worker run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:9081")]
    pub ops_listen: String,
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
    /// How long a shutdown may take.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "25s")]
    pub shutdown_grace: String,
}

/// `worker prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The broker: what its streams still hold is kept.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// For how long a job must not have changed, such as 30d.
    #[arg(long)]
    pub older_than: String,
    /// Only count.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// A checked `worker migrate`.
#[derive(Debug)]
pub struct Migrate {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Copies of each stream, where said.
    pub replicas: Option<usize>,
    /// Bytes of each stream, where said.
    pub max_bytes: Option<i64>,
    /// The number of partitions, where said.
    pub partitions: Option<u16>,
}

/// A checked `worker run`.
#[derive(Debug)]
pub struct Run {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// The ops listener's address.
    pub ops_listen: SocketAddr,
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
    /// How long a shutdown may take.
    pub grace: Duration,
}

/// A checked `worker partitions list`.
#[derive(Debug)]
pub struct ListPartitions {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to print JSON.
    pub json: bool,
}

/// A checked `worker partitions accept`.
#[derive(Debug)]
pub struct Accept {
    /// The partition.
    pub partition: u16,
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// Whether to do it.
    pub yes: bool,
    /// Whether to print JSON.
    pub json: bool,
}

/// A checked `worker prune`.
#[derive(Debug)]
pub struct Prune {
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// For how long a job must not have changed.
    pub older_than: Duration,
    /// Whether to only count.
    pub dry_run: bool,
    /// Whether to print JSON.
    pub json: bool,
}

fn database(problems: &mut Problems, args: &DatabaseArgs) -> Option<DatabaseUrl> {
    problems.take("--database-url (DATABASE_URL)", args.database_url.parse())
}

fn servers(problems: &mut Problems, args: &BrokerArgs) -> Option<Servers> {
    problems.take("--nats-url (NATS_URL)", args.nats_url.parse())
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

impl MigrateArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Migrate, Invalid> {
        let mut problems = Problems::default();
        let database = database(&mut problems, &self.database);
        let servers = servers(&mut problems, &self.broker);
        let replicas = optional(
            &mut problems,
            "--stream-replicas (STREAM_REPLICAS)",
            self.stream_replicas.as_deref(),
            |text| number(text, 1, 5),
        );
        let max_bytes = optional(
            &mut problems,
            "--stream-max-bytes (STREAM_MAX_BYTES)",
            self.stream_max_bytes.as_deref(),
            |text| number(text, 1 << 20, i64::MAX),
        );
        let partitions = optional(
            &mut problems,
            "--partitions (PARTITIONS)",
            self.partitions.as_deref(),
            |text| number(text, 1, MAX_PARTITIONS),
        );
        let checked = (|| {
            Some(Migrate {
                database: database?,
                servers: servers?,
                replicas: replicas?,
                max_bytes: max_bytes?,
                partitions: partitions?,
            })
        })();
        problems.finish(checked)
    }
}

impl RunArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Run, Invalid> {
        let mut problems = Problems::default();
        let database = database(&mut problems, &self.database);
        let servers = servers(&mut problems, &self.broker);
        let ops_listen =
            problems.take("--ops-listen (OPS_LISTEN)", listen_address(&self.ops_listen));
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
        let grace =
            problems.take("--shutdown-grace (SHUTDOWN_GRACE)", duration(&self.shutdown_grace));
        let checked = (|| {
            Some(Run {
                database: database?,
                servers: servers?,
                ops_listen: ops_listen?,
                name: name?,
                lease: lease?,
                batch_max: batch_max?,
                dead_letter_limit: dead_letter_limit?,
                replay_horizon: replay_horizon?,
                grace: grace?,
            })
        })();
        problems.finish(checked)
    }
}

impl ListPartitionsArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<ListPartitions, Invalid> {
        let mut problems = Problems::default();
        let database = database(&mut problems, &self.database);
        let servers = servers(&mut problems, &self.broker);
        let checked = database.zip(servers).map(|(database, servers)| ListPartitions {
            database,
            servers,
            json: self.json,
        });
        problems.finish(checked)
    }
}

impl AcceptArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Accept, Invalid> {
        let mut problems = Problems::default();
        let partition =
            problems.take("the partition", number(&self.partition, 0, MAX_PARTITIONS - 1));
        let database = database(&mut problems, &self.database);
        let servers = servers(&mut problems, &self.broker);
        let checked = (|| {
            Some(Accept {
                partition: partition?,
                database: database?,
                servers: servers?,
                yes: self.yes,
                json: self.json,
            })
        })();
        problems.finish(checked)
    }
}

impl PruneArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Prune, Invalid> {
        let mut problems = Problems::default();
        let database = database(&mut problems, &self.database);
        let servers = servers(&mut problems, &self.broker);
        let older_than = problems.take("--older-than", duration(&self.older_than));
        let checked = (|| {
            Some(Prune {
                database: database?,
                servers: servers?,
                older_than: older_than?,
                dry_run: self.dry_run,
                json: self.json,
            })
        })();
        problems.finish(checked)
    }
}

impl ReadArgs {
    /// Checks the address of the database.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<DatabaseUrl, Invalid> {
        let mut problems = Problems::default();
        let database = database(&mut problems, &self.database);
        problems.finish(database)
    }
}

/// A dead letter's place, as `PARTITION/SEQUENCE/INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: Partition,
    /// The position in its stream.
    pub position: Position,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut parts = text.split('/');
            let partition = parts.next()?.parse().ok().filter(|number| *number < MAX_PARTITIONS)?;
            let position =
                Position { seq: parts.next()?.parse().ok()?, idx: parts.next()?.parse().ok()? };
            parts
                .next()
                .is_none()
                .then_some(Self { partition: Partition::new(partition), position })
        };
        read().ok_or_else(|| format!("\"{text}\" is not PARTITION/SEQUENCE/INDEX like 03/17/0"))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.partition, self.position.seq, self.position.idx)
    }
}

/// A checked order.
#[derive(Debug)]
pub struct PlacedOrder {
    /// The dead letter.
    pub place: Place,
    /// The database.
    pub database: DatabaseUrl,
    /// The broker.
    pub servers: Servers,
    /// How long to wait.
    pub wait: Duration,
    /// Whether to print JSON.
    pub json: bool,
}

impl OrderArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<PlacedOrder, Invalid> {
        let mut problems = Problems::default();
        let place = problems.take("the position", self.position.parse());
        let database = database(&mut problems, &self.read.database);
        let servers = servers(&mut problems, &self.broker);
        let wait = problems.take("--wait", duration(&self.wait));
        let json = self.read.json;
        let checked = (|| {
            Some(PlacedOrder {
                place: place?,
                database: database?,
                servers: servers?,
                wait: wait?,
                json,
            })
        })();
        problems.finish(checked)
    }
}

/// Checks what a reading command is given beside its database.
///
/// # Errors
/// All that is wrong.
pub fn check_read<T, E: std::fmt::Display>(
    read: &ReadArgs,
    name: &str,
    value: Result<T, E>,
) -> Result<(DatabaseUrl, T), Invalid> {
    let mut problems = Problems::default();
    let database = database(&mut problems, &read.database);
    let value = problems.take(name, value);
    problems.finish(database.zip(value))
}

/// Checks `jobs list`.
///
/// # Errors
/// All that is wrong.
pub fn check_list(
    status: Option<&str>,
    limit: &str,
    read: &ReadArgs,
) -> Result<(DatabaseUrl, Option<Status>, u64), Invalid> {
    let mut problems = Problems::default();
    let database = database(&mut problems, &read.database);
    let limit = problems.take("--limit", number(limit, 1, 10_000));
    let status = optional(&mut problems, "--status", status, |text| match text {
        "queued" => Ok(Status::Queued),
        "provisioning" => Ok(Status::Provisioning),
        "running" => Ok(Status::Running),
        "failed" => Ok(Status::Failed),
        _ => Err(format!("\"{text}\" is not queued, provisioning, running or failed")),
    });
    let checked = (|| Some((database?, status?, limit?)))();
    problems.finish(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_flag_is_named_at_once_and_no_password_is_shown() {
        let cli = Cli::parse_from([
            "worker",
            "run",
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
            "--shutdown-grace",
            "soon",
            "--worker-id",
            "",
        ]);
        assert!(!format!("{cli:?}").contains("hunter2"));
        let Command::Run(args) = cli.command else { panic!("not run") };
        let error = args.check().unwrap_err().to_string();
        for flag in [
            "--database-url",
            "--nats-url",
            "--ops-listen",
            "--lease",
            "--batch-max",
            "--dead-letter-limit",
            "--replay-horizon",
            "--shutdown-grace",
            "--worker-id",
        ] {
            assert!(error.contains(flag), "{flag} in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        let place: Place = "03/17/0".parse().unwrap();
        assert_eq!(place.to_string(), "03/17/0");
        for bad in ["", "3/17", "3/17/0/1", "x/1/0", "100/1/0", "3/-/0", "3/1/99999999999"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_line_can_be_built() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sqlite_must_be_a_file() {
        for bad in [
            "postgres://u:p@h:notaport/x",
            "sqlite:a.db?mode=maybe",
            "sqlite::memory:",
            "sqlite:",
            "sqlite:x?mode=memory",
            "mysql://x",
            "ackline.db",
        ] {
            assert!(bad.parse::<DatabaseUrl>().is_err(), "{bad}");
        }
        let DatabaseUrl::Sqlite { path, .. } = "sqlite://a/b.db?mode=rwc".parse().unwrap() else {
            panic!("not SQLite")
        };
        assert_eq!(path, std::path::Path::new("a/b.db"));
    }
}
