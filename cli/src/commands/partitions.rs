//! `ackline partitions`: who owns each, and how a stopped one continues.

use std::collections::HashMap;
use std::io::Write;

use anyhow::{Context, bail};
use async_nats::jetstream;
use async_nats::jetstream::stream::RawMessageErrorKind;
use clap::{Args, Subcommand};
use serde_json::json;
use shared::partition::{MAX_PARTITIONS, Partition};
use shared::settings::number;
use shared::stream::{self, ContractError};
use worker::entity::partition::Model as Row;
use worker::partition::identify::identify;
use worker::rules::event::micros;
use worker::rules::stop_reason::{Mismatch, StopCode};
use worker::rules::verdict::{Checkpoint, Verdict};
use worker::store::accept::{self, Skip};
use worker::store::connection::Purpose;
use worker::store::schema;

use super::{SystemArgs, broker, move_streams, open};
use crate::output::Output;
use crate::output::print::{Table, json, text, time};

/// `ackline partitions`.
#[derive(Debug, Subcommand)]
pub enum Partitions {
    /// List partitions: who owns each, how far it is applied, and why it is stopped.
    List(SystemArgs),
    /// Let a stopped partition continue with its stream as it is. Without --yes, only print what
    /// that would skip.
    Accept(Accept),
    /// Change the number of partitions, under load: a move within the cluster.
    Resize(Box<move_streams::Resize>),
}

/// `ackline partitions accept`.
#[derive(Debug, Args)]
pub struct Accept {
    /// The partition's number.
    #[arg(value_parser = |text: &str| number::<u16>(text, 0, MAX_PARTITIONS - 1))]
    partition: u16,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// The database and the broker.
    #[command(flatten)]
    system: SystemArgs,
}

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database cannot be read, or the partition cannot continue.
pub async fn run(command: &Partitions, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    match command {
        Partitions::List(args) => list(args, out).await,
        Partitions::Accept(args) => accept(args, out).await,
        Partitions::Resize(args) => move_streams::resize(args, out).await,
    }
}

async fn list(args: &SystemArgs, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (database, servers) = args.check()?;
    let db = open(&database, Purpose::Read).await?;
    let rows = schema::partitions(&db).await?;
    let names: HashMap<String, String> =
        accept::workers(&db).await?.into_iter().map(|worker| (worker.id, worker.name)).collect();
    let gaps = accept::gaps(&db).await?;
    // The database has everything that matters. The streams' positions are shown if the broker
    // answers.
    let jetstream = broker(&servers).await;
    if let Err(error) = &jetstream {
        tracing::warn!("the streams' positions are left out: {error:#}");
    }
    let mut table = Table::new([
        "PARTITION",
        "EPOCH",
        "OWNER",
        "LEASE",
        "WATCHED SINCE",
        "APPLIED",
        "STREAM",
        "DEAD",
        "STOPPED",
    ]);
    let mut list = Vec::new();
    let layout = schema::layout_of(&rows);
    for row in rows {
        let partition = layout
            .and_then(|layout| layout.partition(row.partition))
            .context("no such partition")?;
        let state = match &jetstream {
            Ok(jetstream) => stream::find(jetstream, partition).await.ok().flatten(),
            Err(_) => None,
        }
        .map(|info| info.state);
        let name = row.owner.as_ref().map(|owner| names.get(owner).unwrap_or(owner).clone());
        let skipped = gaps.iter().filter(|gap| gap.partition == row.partition);
        table.row([
            partition.to_string(),
            row.epoch.to_string(),
            text(name.as_deref()),
            time(row.lease_until),
            time(row.watched_since),
            row.applied_seq.to_string(),
            state.as_ref().map_or("-".into(), |state| {
                format!("{}-{}", state.first_sequence, state.last_sequence)
            }),
            row.dead_letters_in_row.to_string(),
            text(row.stopped_reason.as_deref()),
        ]);
        list.push(json!({
            "partition": row.partition, "epoch": row.epoch, "owner": row.owner,
            "owner_name": name, "lease_until": row.lease_until,
            "watched_since": row.watched_since, "applied_seq": row.applied_seq,
            "dead_letters_in_row": row.dead_letters_in_row,
            "stopped_reason": row.stopped_reason, "gaps": skipped.collect::<Vec<_>>(),
            "stream": state.map(|state| json!({
                "first_seq": state.first_sequence, "last_seq": state.last_sequence,
                "messages": state.messages, "bytes": state.bytes,
            })),
        }));
    }
    if args.read.json {
        return json(out, &list);
    }
    table.print(out)?;
    for gap in gaps {
        writeln!(
            out,
            "partition {:02} went on without {} to {}, accepted {}: {}",
            gap.partition,
            gap.from_seq,
            gap.to_seq,
            time(Some(gap.accepted_at)),
            gap.reason
        )?;
    }
    Ok(())
}

async fn accept(args: &Accept, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (database, servers) = args.system.check()?;
    let db = open(&database, Purpose::Change).await?;
    let rows = schema::partitions(&db).await?;
    let partition = schema::layout_of(&rows).and_then(|layout| layout.partition(args.partition));
    let row = rows.into_iter().find(|row| row.partition == i32::from(args.partition));
    let Some((partition, row)) = partition.zip(row) else {
        bail!("there is no partition {}: see `ackline partitions list`", args.partition);
    };
    let Some(reason) = row.stopped_reason.clone() else {
        bail!("partition {} is not stopped: there is nothing to accept", args.partition);
    };
    let jetstream = broker(&servers).await?;
    let skip = examine(&jetstream, partition, &row, &reason).await?;
    let skipped = skip
        .filter(|skip| skip.to_seq > row.applied_seq)
        .map(|skip| json!({ "from_seq": row.applied_seq + 1, "to_seq": skip.to_seq }));
    if args.yes && !accept::accept(&db, &row, skip).await? {
        bail!("partition {} has changed in the meantime: look again", args.partition);
    }
    if args.system.read.json {
        return json(
            out,
            &json!({
                "partition": row.partition, "stopped_reason": reason, "skipped": skipped,
                "accepted": args.yes,
            }),
        );
    }
    writeln!(out, "partition {} is stopped: {reason}", args.partition)?;
    let what = match (&skipped, skip) {
        (Some(skipped), _) => format!(
            "goes on without the messages {} to {}, which are gone; that is on record",
            skipped["from_seq"], skipped["to_seq"]
        ),
        (None, Some(_)) => "goes on; nothing that was not applied is missing".to_owned(),
        (None, None) => "goes on with a new count of dead letters; nothing is skipped".to_owned(),
    };
    if args.yes {
        writeln!(out, "accepted: it {what}; a worker takes it up within half a minute")?;
    } else {
        writeln!(out, "with --yes it {what}; nothing has changed yet")?;
    }
    Ok(())
}

/// Finds out from the stream what would be skipped. None if nothing is missing, and only the count of
/// dead letters stops the partition.
///
/// A stream that was recreated, or lost its tail, numbers its messages from below the checkpoint
/// again, and those positions are taken by events that were applied. Continuing in this database
/// would mix the two.
async fn examine(
    jetstream: &jetstream::Context,
    partition: Partition,
    row: &Row,
    reason: &str,
) -> anyhow::Result<Option<Skip>> {
    const REFUSED: &str = "its positions are taken by what was applied before, so this database \
                           can't go on with it; bring the right stream back, or give the workers an \
                           empty database, which they fill from this stream, and keep the old one \
                           to look things up";
    let stream = jetstream
        .get_stream(partition.stream())
        .await
        .context("the broker does not describe the stream")?;
    let info = stream.cached_info();
    let checkpoint = Checkpoint::from(row);
    let verdict = identify(jetstream, partition, info, &checkpoint).await;
    let is_proven = match verdict.context("the message at the checkpoint can't be read")? {
        Verdict::Believed => true,
        Verdict::NoLeader => return Err(ContractError::NoLeader(partition.stream()).into()),
        Verdict::Differs(Mismatch::Purged { .. } | Mismatch::MessageGone { .. }) => false,
        Verdict::Differs(
            mismatch @ (Mismatch::Recreated { .. }
            | Mismatch::LostTail { .. }
            | Mismatch::OtherMessage { .. }),
        ) => bail!("{mismatch}; {REFUSED}"),
    };
    let (applied, last) = (checkpoint.applied_seq, info.state.last_sequence);
    let next = match stream.get_first_raw_message_by_subject(">", applied + 1).await {
        Ok(message) => message.sequence,
        Err(error) if is_missing(&error) => last + 1,
        Err(error) => return Err(error).context("the message after the checkpoint can't be read"),
    };
    if is_proven && next == applied + 1 {
        match reason.parse() {
            Ok(StopCode::DeadLetters) => return Ok(None),
            Ok(StopCode::Database) => bail!(
                "the database is the cause, and nothing of the stream is missing: repair it, and the \
                 worker, which keeps trying, goes on by itself"
            ),
            _ => {}
        }
        bail!("nothing is missing any more: a worker goes on by itself within half a minute");
    }
    let stream_created_at = micros(info.created);
    Ok(Some(Skip { to_seq: i64::try_from(next)? - 1, stream_created_at }))
}

fn is_missing(error: &async_nats::jetstream::stream::RawMessageError) -> bool {
    matches!(error.kind(), RawMessageErrorKind::NoMessageFound)
}
