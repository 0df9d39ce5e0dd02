//! The command line: flags with environment twins, all checked before anything starts. A file for
//! each command holds its flags and what they are checked into.

pub mod audit;
pub mod dead_letters;
pub mod jobs;
pub mod migrate;
pub mod partitions;
pub mod prune;
pub mod rebuild;
pub mod run;
pub mod status;

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};
use shared::config::{Invalid, Problems, number};
use shared::file::InFile;
use shared::health::HealthArgs;

use crate::store::connection::DatabaseUrl;

const PASSWORD: &str = "--database-password-file (DATABASE_PASSWORD_FILE)";

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
    Migrate(migrate::MigrateArgs),
    /// Consume the streams and apply them.
    Run(Box<run::RunArgs>),
    /// Ask the running worker on this machine whether it is ready; exits 1 with the reasons if not.
    Health(HealthArgs),
    /// Say whether everything is in order: jobs, partitions, dead letters, refusals. Exits 1 with
    /// what needs somebody if not.
    Status(status::StatusArgs),
    /// Prove that what was accepted is what was applied. Exits 1 with the differences if not.
    Audit(audit::AuditArgs),
    /// Fold the streams into an empty database, or show what one job would be.
    Rebuild(rebuild::RebuildArgs),
    /// Remove finished jobs that are old and of which the streams hold nothing any more.
    Prune(prune::PruneArgs),
    /// Look at partitions, and let a stopped one go on.
    Partitions {
        /// What to do.
        #[command(subcommand)]
        command: partitions::PartitionsCommand,
    },
    /// Look at jobs.
    Jobs {
        /// What to look at.
        #[command(subcommand)]
        command: jobs::JobsCommand,
    },
    /// Look at what could not be applied, and decide what becomes of it.
    DeadLetters {
        /// What to do.
        #[command(subcommand)]
        command: dead_letters::DeadLettersCommand,
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
    /// PostgreSQL's password, if the address holds none; one newline at the end is not part of it.
    #[arg(long, env = "DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub database_password_file: Option<OsString>,
}

// It may hold a password.
impl std::fmt::Debug for DatabaseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseArgs")
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

/// What the commands that list rows share.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How many at the most.
    #[arg(long, default_value = "50")]
    pub limit: String,
    /// The database and the form of the output.
    #[command(flatten)]
    pub read: ReadArgs,
}

impl DatabaseArgs {
    fn check(&self, problems: &mut Problems) -> Option<DatabaseUrl> {
        let url: Option<DatabaseUrl> =
            problems.take("--database-url (DATABASE_URL)", self.database_url.parse());
        match InFile::take(problems, PASSWORD, self.database_password_file.as_ref())? {
            None => url,
            Some(file) => problems.take(PASSWORD, url?.with_password(file)),
        }
    }
}

impl ReadArgs {
    /// Checks the address of the database.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<DatabaseUrl, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        problems.finish(database)
    }

    /// Checks the address of the database, and the one value that the command is given beside it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check_with<T, E: std::fmt::Display>(
        &self,
        name: &str,
        value: Result<T, E>,
    ) -> Result<(DatabaseUrl, T), Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let value = problems.take(name, value);
        problems.finish(database.zip(value))
    }
}

impl ListArgs {
    fn check(&self, problems: &mut Problems) -> Option<(DatabaseUrl, u64)> {
        let database = self.read.database.check(problems);
        let limit = problems.take("--limit", number(&self.limit, 1, 10_000));
        database.zip(limit)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_built() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
