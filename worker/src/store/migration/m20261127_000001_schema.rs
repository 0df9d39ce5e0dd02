//! The first schema. Names are strings, so that later changes of the entities do not alter it.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::ColumnType;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new_with_type(name, ColumnType::Text)
}

fn int(name: &'static str) -> ColumnDef {
    ColumnDef::new_with_type(name, ColumnType::Integer)
}

fn bigint(name: &'static str) -> ColumnDef {
    ColumnDef::new_with_type(name, ColumnType::BigInteger)
}

fn time(name: &'static str) -> ColumnDef {
    ColumnDef::new_with_type(name, ColumnType::TimestampWithTimeZone)
}

fn blob(name: &'static str) -> ColumnDef {
    ColumnDef::new_with_type(name, ColumnType::Blob)
}

fn required(mut column: ColumnDef) -> ColumnDef {
    column.not_null().take()
}

fn table(
    name: &'static str,
    columns: Vec<ColumnDef>,
    key: &[&'static str],
) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(name);
    for column in columns {
        table.col(column);
    }
    let mut primary = Index::create();
    for column in key {
        primary.col(*column);
    }
    table.primary_key(&mut primary).take()
}

fn index(
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(table);
    for column in columns {
        index.col(*column);
    }
    index
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let jobs = vec![
            required(text("id")),
            required(text("status")),
            text("workflow_run_id"),
            int("run_attempt"),
            required(int("run_count")),
            text("error"),
            text("failed_step"),
            text("failure"),
            text("agent_id"),
            text("region"),
            int("heartbeat_timeout_s"),
            time("presume_at"),
            required(int("heartbeat_count")),
            time("last_heartbeat_at"),
            time("last_heartbeat_sent_at"),
            time("queued_at"),
            time("started_at"),
            time("finished_at"),
            required(time("created_at")),
            required(time("updated_at")),
            required(int("partition")),
            required(bigint("first_seq")),
            required(int("first_idx")),
            required(bigint("last_seq")),
            required(int("last_idx")),
        ];
        let job_events = vec![
            required(int("partition")),
            required(bigint("seq")),
            required(int("idx")),
            required(text("job_id")),
            required(text("kind")),
            text("from_status"),
            text("to_status"),
            required(text("outcome")),
            text("reason"),
            text("event_id"),
            text("workflow_run_id"),
            int("run_attempt"),
            text("error"),
            text("failed_step"),
            text("outputs"),
            text("phase"),
            text("speaker"),
            bigint("redriven_seq"),
            int("redriven_idx"),
            required(time("received_at")),
        ];
        let dead_letters = vec![
            required(int("partition")),
            required(bigint("seq")),
            required(int("idx")),
            text("job_id"),
            required(text("state")),
            required(text("reason")),
            required(text("subject")),
            text("event_id"),
            text("speaker"),
            text("run"),
            required(blob("payload")),
            required(time("received_at")),
            required(int("refusals")),
        ];
        let partitions = vec![
            required(int("partition")),
            required(int("generation")),
            required(bigint("epoch")),
            text("owner"),
            text("previous_owner"),
            time("lease_until"),
            required(bigint("applied_seq")),
            text("applied_msg_id"),
            time("stream_created_at"),
            required(int("rules_version")),
            required(bigint("rules_from_seq")),
            required(int("dead_letters_in_row")),
            text("stopped_reason"),
            bigint("accepted_seq"),
            time("watched_since"),
            time("watched_until"),
            required(bigint("applied_callbacks")),
            time("applied_at"),
            time("applied_received_at"),
        ];
        let partition_gaps = vec![
            required(int("partition")),
            required(bigint("from_seq")),
            required(bigint("to_seq")),
            required(text("reason")),
            required(time("stream_created_at")),
            required(time("accepted_at")),
        ];
        let workers = vec![
            required(text("id")),
            required(text("name")),
            required(time("alive_since")),
            required(time("alive_until")),
        ];

        let position = ["partition", "seq", "idx"];
        for table in [
            table("jobs", jobs, &["id"]),
            table("job_events", job_events, &position),
            table("dead_letters", dead_letters, &position),
            table("partitions", partitions, &["partition"]),
            table("partition_gaps", partition_gaps, &["partition", "from_seq"]),
            table("workers", workers, &["id"]),
        ] {
            manager.create_table(table).await?;
        }
        for (name, table, columns) in [
            ("job_events_job_id", "job_events", ["job_id", "event_id"].as_slice()),
            // Whether callbacks of a job are held is one entry; what is held is read in order.
            ("dead_letters_job_id", "dead_letters", &["job_id", "state", "seq", "idx"]),
            // A list of jobs, of one status or of all, is read from the ends of its ranges.
            ("jobs_age", "jobs", &["status", "created_at", "id"]),
            // Dead letters are counted by partition, and listed without the discarded ones.
            ("dead_letters_state", "dead_letters", &["state", "partition", "seq", "idx"]),
        ] {
            manager.create_index(index(name, table, columns)).await?;
        }
        // What orders have redriven, in the order in which it was delivered: few rows.
        let redriven = ["partition", "redriven_seq", "redriven_idx"];
        let redriven = index("job_events_redriven", "job_events", &redriven)
            .and_where(Expr::col("redriven_seq").is_not_null())
            .take();
        manager.create_index(redriven).await?;
        // In this order every silent job is at the beginning of a range: `presume_at` is null where
        // `updated_at` decides. Finished jobs are left out: they can't be silent, and most jobs are.
        let silence = ["partition", "status", "presume_at", "updated_at"];
        let silence = index("jobs_silence", "jobs", &silence)
            .and_where(Expr::col("finished_at").is_null())
            .take();
        manager.create_index(silence).await?;
        // The others are counted, and removed in this order when they are old enough. Heartbeats
        // never write to it.
        let finished = index("jobs_finished", "jobs", &["partition", "status", "updated_at"])
            .and_where(Expr::col("finished_at").is_not_null())
            .take();
        manager.create_index(finished).await
    }
}
