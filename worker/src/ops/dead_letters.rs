//! `worker dead-letters`: what could not be applied, and what becomes of it.

use std::io::Write;

use anyhow::{Context, bail};
use async_nats::jetstream;
use sea_orm::DatabaseConnection;
use tokio::time::{Instant, sleep};

use super::print::{Table, json, printable, text, time, word};
use super::{broker, open};
use crate::config::dead_letters::{DeadLettersCommand, OrderArgs, Place, PlacedOrder};
use crate::entity::dead_letter::{Model as DeadLetter, State};
use crate::event::{Action, Order, Position};
use crate::internal;
use crate::store::connection::Purpose;
use crate::store::{dead_letters, schema};

const POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database or the broker can't be reached, or there is no such dead letter.
pub async fn run(command: DeadLettersCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(args) => {
            let (database, limit) = args.check()?;
            let db = open(&database, Purpose::Read).await?;
            let letters =
                dead_letters::list(&db, args.job.as_deref(), args.discarded, limit).await?;
            if args.list.read.json {
                return json(out, &letters.iter().map(as_json).collect::<Vec<_>>());
            }
            let mut table = Table::new(["POSITION", "STATE", "JOB", "RECEIVED", "REASON"]);
            for letter in &letters {
                table.row([
                    place(letter).to_string(),
                    word(&letter.state),
                    text(letter.job_id.as_deref()),
                    time(Some(letter.received_at)),
                    letter.reason.clone(),
                ]);
            }
            Ok(table.print(out)?)
        }
        DeadLettersCommand::Show { position, read } => {
            let (database, place) = read.check_with("the position", position.parse())?;
            let letter = existing(&open(&database, Purpose::Read).await?, place).await?;
            if read.json {
                return json(out, &as_json(&letter));
            }
            for (name, value) in [
                ("position", place.to_string()),
                ("state", word(&letter.state)),
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
        DeadLettersCommand::Requeue(args) => order(&args, Action::Requeue, out).await,
        DeadLettersCommand::Discard(args) => order(&args, Action::Discard, out).await,
    }
}

fn place(letter: &DeadLetter) -> Place {
    let number = u16::try_from(letter.partition).unwrap_or_default();
    let position = Position { seq: letter.seq, idx: letter.idx };
    Place { partition: shared::partition::Partition::new(number), position }
}

/// The row, with its payload as text where it is one.
fn as_json(letter: &DeadLetter) -> serde_json::Value {
    let payload = match std::str::from_utf8(&letter.payload) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!(letter.payload),
    };
    serde_json::json!({
        "position": place(letter).to_string(),
        "state": letter.state,
        "job_id": letter.job_id,
        "event_id": letter.event_id,
        "subject": letter.subject,
        "reason": letter.reason,
        "received_at": letter.received_at,
        "payload": payload,
    })
}

async fn existing(db: &DatabaseConnection, place: Place) -> anyhow::Result<DeadLetter> {
    let letter =
        dead_letters::find(db, i32::from(place.partition.number()), place.position).await?;
    letter.with_context(|| {
        format!("there is no dead letter at {place}: see `worker dead-letters list`")
    })
}

/// Tells the owner of the partition, through its stream, and waits until it has done it.
async fn order(args: &OrderArgs, action: Action, out: &mut impl Write) -> anyhow::Result<()> {
    let PlacedOrder { place, database, servers, wait, json: as_object } = args.check()?;
    let db = open(&database, Purpose::Read).await?;
    let letter = existing(&db, place).await?;
    match letter.state {
        State::Dead => {}
        State::Discarded => bail!("{place} is discarded already"),
        State::Held => {
            let job = letter.job_id.unwrap_or_default();
            bail!(
                "{place} is sound, but held behind a dead letter of its job {job:?}: decide about that one"
            )
        }
    }
    let jetstream = broker(&servers).await?;
    let seq = publish(&jetstream, &letter, place, action).await?;

    let deadline = Instant::now() + wait;
    let number = usize::from(place.partition.number());
    while schema::partitions(&db).await?.get(number).is_none_or(|row| row.applied_seq < seq) {
        if Instant::now() >= deadline {
            bail!(
                "the order is in the stream as message {seq} and takes effect when a worker \
                 reaches it; none did within {wait:?}"
            );
        }
        sleep(POLL).await;
    }
    let now = dead_letters::find(&db, letter.partition, place.position).await?;
    let state = now.as_ref().map(|letter| letter.state);
    if as_object {
        json(out, &serde_json::json!({ "position": place.to_string(), "state": state }))?;
    }
    match (action, now) {
        (Action::Requeue, Some(letter)) => {
            bail!("{place} was tried again, in vain: {}", letter.reason)
        }
        (Action::Requeue, None) if !as_object => writeln!(out, "{place} is applied")?,
        (Action::Discard, _) if !as_object => writeln!(out, "{place} is discarded")?,
        _ => {}
    }
    Ok(())
}

async fn publish(
    jetstream: &jetstream::Context,
    letter: &DeadLetter,
    place: Place,
    action: Action,
) -> anyhow::Result<i64> {
    let (refusal, reason) = (letter.refusals, letter.reason.clone());
    let body = Order { action, target: place.position, refusal, reason }.to_body();
    #[expect(clippy::disallowed_methods, reason = "it is written down, and decides nothing")]
    let received_ms = chrono::Utc::now().timestamp_millis();
    let job_id = letter.job_id.as_deref().unwrap_or_default();
    let entry = internal::entry("operator", job_id, received_ms, &body);
    internal::publish(jetstream, place.partition, entry).await
}
