//! `worker dead-letters`: what could not be applied, and what becomes of it.

use std::io::Write;

use anyhow::bail;

use super::print::{Table, json, printable, text, time};
use super::{Output, broker, open};
use crate::config::dead_letters::{DeadLettersCommand, OrderArgs, PlacedOrder};
use crate::entity::dead_letter::Model as DeadLetter;
use crate::event::Action;
use crate::redrive::{self, Done, Place};
use crate::store::connection::Purpose;
use crate::store::dead_letters::{self, LetterFilter};

/// Runs the command and prints on `out`.
///
/// # Errors
/// When the database or the broker can't be reached, or there is no such dead letter.
pub async fn run(command: DeadLettersCommand, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(args) => {
            let (database, limit) = args.check()?;
            let db = open(&database, Purpose::Read).await?;
            let filter = LetterFilter { job_id: args.job, state: None, discarded: args.discarded };
            let letters = dead_letters::list(&db, &filter, None, limit).await?;
            if args.list.read.json {
                return json(out, &letters.iter().map(as_json).collect::<Vec<_>>());
            }
            let mut table = Table::new(["POSITION", "STATE", "JOB", "RECEIVED", "REASON"]);
            for letter in &letters {
                table.row([
                    Place::of(letter).to_string(),
                    letter.state.as_str().to_owned(),
                    text(letter.job_id.as_deref()),
                    time(Some(letter.received_at)),
                    letter.reason.clone(),
                ]);
            }
            Ok(table.print(out)?)
        }
        DeadLettersCommand::Show { position, read } => {
            let (database, place) = read.check_with("the position", position.parse())?;
            let letter = redrive::existing(&open(&database, Purpose::Read).await?, place).await?;
            if read.json {
                return json(out, &as_json(&letter));
            }
            for (name, value) in [
                ("position", place.to_string()),
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
        DeadLettersCommand::Requeue(args) => order(&args, Action::Requeue, out).await,
        DeadLettersCommand::Discard(args) => order(&args, Action::Discard, out).await,
    }
}

/// The row, with its payload as text where it is one.
fn as_json(letter: &DeadLetter) -> serde_json::Value {
    let payload = match std::str::from_utf8(&letter.payload) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!(letter.payload),
    };
    serde_json::json!({
        "position": Place::of(letter).to_string(),
        "state": letter.state,
        "job_id": letter.job_id,
        "event_id": letter.event_id,
        "subject": letter.subject,
        "reason": letter.reason,
        "received_at": letter.received_at,
        "payload": payload,
    })
}

/// Gives the order, and says what has become of it.
async fn order(
    args: &OrderArgs,
    action: Action,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let PlacedOrder { place, database, servers, wait, json: as_object } = args.check()?;
    let db = open(&database, Purpose::Read).await?;
    // Before the broker is asked for: what can't be done needs none.
    redrive::existing(&db, place).await?;
    let jetstream = broker(&servers).await?;
    let done = redrive::order(&db, &jetstream, place, action, wait).await?;
    if let Done::Waiting(seq) = done {
        bail!(
            "the order is in the stream as message {seq} and takes effect when a worker reaches \
             it; none did within {wait:?}"
        );
    }
    if as_object {
        let now = dead_letters::find(&db, place.partition.number().into(), place.position).await?;
        let state = now.as_ref().map(|letter| letter.state);
        json(out, &serde_json::json!({ "position": place.to_string(), "state": state }))?;
    }
    match done {
        Done::Refused(reason) => bail!("{place} was tried again, in vain: {reason}"),
        Done::Applied if !as_object => writeln!(out, "{place} is applied")?,
        Done::Discarded if !as_object => writeln!(out, "{place} is discarded")?,
        _ => {}
    }
    Ok(())
}
