//! Pages of jobs, where the database orders texts otherwise than by their bytes.

use chrono::DateTime;
use sea_orm::ConnectionTrait;
use worker::store::connection::{DatabaseUrl, Purpose, connect};
use worker::store::read::{self, JobFilter, JobKey};
use worker::store::schema;

#[tokio::test]
async fn every_job_of_one_moment_is_on_a_page_whatever_order_ids_have() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}?mode=rwc", dir.path().join("pages.db").display());
    let url: DatabaseUrl = url.parse().unwrap();
    let db = connect(&url, Purpose::Migrate).await.unwrap();
    schema::migrate(&db).await.unwrap();
    // As most locales of PostgreSQL do, "a" comes before "B" then.
    db.execute_unprepared(
        "PRAGMA writable_schema = ON; \
         UPDATE sqlite_master SET sql = replace(sql, '\"id\" text', '\"id\" text COLLATE NOCASE') \
         WHERE name = 'jobs'",
    )
    .await
    .unwrap();
    db.close().await.unwrap();
    let db = connect(&url, Purpose::Change).await.unwrap();
    let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    for (id, status) in
        [("a", "queued"), ("B", "running"), ("c", "queued"), ("D", "failed"), ("e", "running")]
    {
        db.execute_unprepared(&format!(
            "INSERT INTO jobs (id, status, run_count, heartbeat_count, created_at, updated_at, \
             partition, first_seq, first_idx, last_seq, last_idx) \
             VALUES ('{id}', '{status}', 0, 0, '{now}', '{now}', 0, 1, 0, 1, 0)",
            now = now.to_rfc3339()
        ))
        .await
        .unwrap();
    }
    let all = JobFilter::default();
    let page =
        async |after: Option<&JobKey>| read::job_page(&db, &all, after, 1, u64::MAX).await.unwrap();
    let mut after = None;
    let mut seen = Vec::new();
    while let Some(job) = page(after.as_ref()).await.jobs.pop() {
        after = Some(JobKey::from(&job));
        seen.push(job.id);
    }
    assert_eq!(seen, ["e", "D", "c", "B", "a"]);
}
