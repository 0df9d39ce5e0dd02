//! `worker migrate`.

use clap::Args;
use shared::broker::{BrokerArgs, Servers};
use shared::config::{Invalid, Problems, number};
use shared::partition::MAX_PARTITIONS;

use super::{DatabaseArgs, optional};
use crate::store::connection::DatabaseUrl;

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

impl MigrateArgs {
    /// Checks every value.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<Migrate, Invalid> {
        let mut problems = Problems::default();
        let database = self.database.check(&mut problems);
        let servers = self.broker.check(&mut problems);
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
