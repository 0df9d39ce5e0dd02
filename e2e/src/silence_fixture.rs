//! Many jobs in a database at once, for seeing what looking for the silent ones among them costs.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};
use worker::store::liveness::{self, Limits};

/// How long a job may be silent.
pub const TIMEOUT: Duration = Duration::from_secs(180);
/// Among how many partitions the jobs are divided.
pub const PARTITIONS: i32 = 16;
/// What an owner asks for at a time.
pub const MAX: u64 = 256;

/// How many jobs there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilenceFixture {
    /// Finished ones.
    pub finished: u64,
    /// Jobs in `provisioning` that were heard of just now: millions take a while to fill in.
    pub alive: u64,
    /// Jobs in `provisioning` that were heard of an hour ago, and may be silent for two.
    pub patient: u64,
    /// Silent ones.
    pub silent: u64,
}

impl SilenceFixture {
    /// Puts the jobs into an empty table, and lets the database count them.
    pub async fn fill(self, db: &DatabaseConnection) -> Result<()> {
        for (name, jobs, status, age_s, own_s) in [
            ("finished", self.finished, "running", "i % 1000000", None),
            ("alive", self.alive, "provisioning", "i % 30", None),
            ("patient", self.patient, "provisioning", "3600 + i % 100", Some(7200)),
            ("silent", self.silent, "provisioning", "600 + i", None),
        ] {
            if jobs > 0 {
                insert(db, name, jobs, status, age_s, own_s).await?;
            }
        }
        let counted = match db.get_database_backend() {
            DbBackend::Sqlite => "ANALYZE",
            // As autovacuum does, sooner or later.
            _ => "VACUUM ANALYZE",
        };
        db.execute_unprepared(counted).await?;
        Ok(())
    }
}

async fn insert(
    db: &DatabaseConnection,
    name: &str,
    jobs: u64,
    status: &str,
    age_s: &str,
    own_s: Option<u32>,
) -> Result<()> {
    let backend = db.get_database_backend();
    let ago = |age: &str| match backend {
        DbBackend::Sqlite => {
            format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', (-1 * ({age})) || ' seconds')")
        }
        _ => format!("clock_timestamp() - ({age}) * interval '1 second'"),
    };
    let at = ago(age_s);
    let (own, until) = match own_s {
        Some(own_s) => (own_s.to_string(), ago(&format!("{age_s} - {own_s}"))),
        None => ("NULL".into(), "NULL".into()),
    };
    let finished = if status == "running" { at.as_str() } else { "NULL" };
    db.execute_unprepared(&format!(
        "INSERT INTO jobs (id, status, workflow_run_id, run_attempt, run_count, agent_id, region, \
         heartbeat_timeout_s, presume_at, heartbeat_count, last_heartbeat_at, queued_at, started_at, \
         finished_at, created_at, updated_at, partition, first_seq, first_idx, last_seq, last_idx) \
         WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {jobs}) \
         SELECT '{name}-' || i, '{status}', '18234567890', 1, 1, 'agent-' || i, 'eu-central-1', \
         {own}, {until}, 7, {at}, {at}, {at}, {finished}, {at}, {at}, \
         i % {PARTITIONS}, i, 0, i, 0 FROM numbers"
    ))
    .await?;
    Ok(())
}

/// What an owner asks for, who has watched for a day.
pub fn limits() -> Limits {
    let now: DateTime<Utc> = Utc::now();
    Limits {
        heard_before: Some(now - TIMEOUT),
        queued_before: Some(now - 10 * TIMEOUT),
        now,
        longest_own_s: 86_400,
    }
}

/// The silent jobs of a partition, by name.
pub async fn sweep(db: &DatabaseConnection, partition: i32) -> Result<Vec<String>> {
    let silent = liveness::silent(db, partition, limits(), MAX).await?;
    Ok(silent.into_iter().map(|silent| silent.id).collect())
}
