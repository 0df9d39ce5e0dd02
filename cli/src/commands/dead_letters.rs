//! `ackline dead-letters`: what could not be applied, and decisions about it.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use shared::settings::duration;
use worker::apply::redrive::{self, Done, LetterId};
use worker::entity::dead_letter::Model as DeadLetter;
use worker::rules::event::Action;
use worker::store::connection::Purpose;
use worker::store::dead_letters::{self, LetterFilter, Listed};

use super::{ListArgs, ReadArgs, SystemArgs, broker, open};
use crate::output::Output;
use crate::output::print::{Table, json, printable, text, time};

/// `ackline dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List dead letters and what is held behind them, oldest first.
    List(List),
    /// Show one with its payload.
    Show {
        /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
        position: LetterId,
        /// The database and the form of the output.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Try one again, and then everything held behind it, in order.
    Requeue(Order),
    /// Discard one, so that it never takes effect, and apply what is held behind it, in order.
    Discard(Order),
}

/// `ackline dead-letters list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this job.
    #[arg(long)]
    job: Option<String>,
    /// Include discarded ones.
    #[arg(long)]
    discarded: bool,
    /// What lists share.
    #[command(flatten)]
    list: ListArgs,
}

/// `ackline dead-letters requeue` and `discard`.
#[derive(Debug, Args)]
pub struct Order {
    /// PARTITION/SEQUENCE/INDEX, as `list` prints it.
    position: LetterId,
    /// How long to wait until the order is carried out.
    #[arg(long, default_value = "10s", value_parser = duration)]
    wait: Duration,
    /// The database, and the broker, through which the order reaches the owner of the partition.
    #[command(flatten)]
    system: SystemArgs,
}

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database or the broker cannot be reached, or there is no such dead letter.
pub async fn run(command: &DeadLetters, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    match command {
        DeadLetters::List(args) => {
            let db = args.list.read.open().await?;
            let job_id = args.job.clone();
            let filter = LetterFilter { job_id, state: None, discarded: args.discarded };
            let letters = dead_letters::list(&db, &filter, None, args.list.limit).await?;
            if args.list.read.json {
                return json(out, &letters.iter().map(listed_as_json).collect::<Vec<_>>());
            }
            let mut table = Table::new(["POSITION", "STATE", "JOB", "RECEIVED", "REASON"]);
            for letter in &letters {
                table.row([
                    LetterId::of_listed(letter).to_string(),
                    letter.state.as_str().to_owned(),
                    text(letter.job_id.as_deref()),
                    time(Some(letter.received_at)),
                    letter.reason.clone(),
                ]);
            }
            Ok(table.print(out)?)
        }
        DeadLetters::Show { position, read } => {
            let letter = redrive::existing(&read.open().await?, *position).await?;
            if read.json {
                return json(out, &as_json(&letter));
            }
            for (name, value) in [
                ("position", position.to_string()),
                ("state", letter.state.as_str().to_owned()),
                ("job", text(letter.job_id.as_deref())),
                ("event", text(letter.event_id.as_deref())),
                ("received", time(Some(letter.received_at))),
                ("subject", letter.subject.clone()),
                ("reason", letter.reason.clone()),
                ("payload", String::from_utf8_lossy(&letter.payload).into_owned()),
            ] {
                writeln!(out, "{name:<9} {}", printable(&value))?;
            }
            Ok(())
        }
        DeadLetters::Requeue(args) => order(args, Action::Requeue, out).await,
        DeadLetters::Discard(args) => order(args, Action::Discard, out).await,
    }
}

/// The row, with the size of its payload.
fn listed_as_json(letter: &Listed) -> serde_json::Value {
    serde_json::json!({
        "position": LetterId::of_listed(letter).to_string(),
        "state": letter.state,
        "job_id": letter.job_id,
        "event_id": letter.event_id,
        "subject": letter.subject,
        "reason": letter.reason,
        "received_at": letter.received_at,
        "payload_bytes": letter.payload_bytes,
    })
}

/// The row, with its payload as text if it is text.
fn as_json(letter: &DeadLetter) -> serde_json::Value {
    let payload = match std::str::from_utf8(&letter.payload) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!(letter.payload),
    };
    serde_json::json!({
        "position": LetterId::of(letter).to_string(),
        "state": letter.state,
        "job_id": letter.job_id,
        "event_id": letter.event_id,
        "subject": letter.subject,
        "reason": letter.reason,
        "received_at": letter.received_at,
        "payload": payload,
    })
}

/// Gives the order, and prints its outcome.
async fn order(args: &Order, action: Action, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (database, servers) = args.system.check()?;
    let (letter, wait, as_object) = (args.position, args.wait, args.system.read.json);
    let db = open(&database, Purpose::Read).await?;
    // Checked first: an order that is impossible needs no broker.
    redrive::existing(&db, letter).await?;
    let jetstream = broker(&servers).await?;
    let done = redrive::order(&db, &jetstream, letter, action, wait).await?;
    if let Done::Waiting(seq) = done {
        bail!(
            "the order is in the stream as message {seq} and takes effect when a worker reaches \
             it; none did within {wait:?}"
        );
    }
    if as_object {
        let now = dead_letters::find(&db, letter.partition, letter.position).await?;
        let state = now.as_ref().map(|now| now.state);
        json(out, &serde_json::json!({ "position": letter.to_string(), "state": state }))?;
    }
    match done {
        Done::Refused(reason) => bail!("{letter} was tried again, in vain: {reason}"),
        Done::Applied if !as_object => writeln!(out, "{letter} is applied")?,
        Done::Discarded if !as_object => writeln!(out, "{letter} is discarded")?,
        _ => {}
    }
    Ok(())
}
