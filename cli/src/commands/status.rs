//! `ackline status`: one look at everything, and whether it is in order.

use std::io::{self, Write};

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Args;
use worker::entity::job::Status as JobStatus;
use worker::observe::humanize::{seconds, span};
use worker::observe::{Looker, PartitionState, Refusals, Snapshot, Sources};
use worker::process::settings::IngressArgs;
use worker::store::connection::Purpose;
use worker::store::read;

use super::{SystemArgs, broker, open};
use crate::output::print::{Table, json, printable, text};
use crate::output::{Colour, Output};

/// `ackline status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The ingresses.
    #[command(flatten)]
    ingresses: IngressArgs,
    /// The database, and the broker. If that cannot be reached, the command says so.
    #[command(flatten)]
    system: SystemArgs,
}

/// Runs the command and prints on `out`.
///
/// # Errors
/// The database cannot be read, or something needs attention.
pub async fn run(args: &Status, out: &mut Output<impl Write>) -> anyhow::Result<()> {
    let (database, servers) = args.system.check()?;
    let ingresses = args.ingresses.ingress_ops.clone();
    let db = open(&database, Purpose::Look).await?;
    let jetstream = broker(&servers).await;
    let (jetstream, unreachable) = match jetstream {
        Ok(jetstream) => (Some(jetstream), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let mut snapshot = Looker::new(Sources { db: db.clone(), jetstream, ingresses }).look().await;
    snapshot.problems.splice(0..0, unreachable);
    // Leases end by the database's clock. If the database does not answer, that is among the
    // problems.
    let now = read::now(&db).await.unwrap_or(snapshot.at);
    if args.system.read.json {
        json(out, &snapshot)?;
    } else {
        show(out, &snapshot, now)?;
    }
    let needs = needs(&snapshot, now);
    if !needs.is_empty() {
        bail!("somebody is needed:\n  {}", needs.join("\n  "));
    }
    if !args.system.read.json {
        writeln!(out, "\neverything is in order")?;
    }
    Ok(())
}

/// What needs attention, one a line; empty if everything is in order.
fn needs(snapshot: &Snapshot, now: DateTime<Utc>) -> Vec<String> {
    let mut needs = snapshot.problems.clone();
    for state in &snapshot.partitions {
        if let Some(reason) = &state.stopped_reason {
            needs.push(format!("partition {:02} is stopped: {reason}", state.partition));
        }
    }
    let free: Vec<_> =
        snapshot.partitions.iter().filter(|state| owner(state, now).is_none()).collect();
    if !free.is_empty() {
        let free: Vec<_> = free.iter().map(|state| format!("{:02}", state.partition)).collect();
        needs.push(format!("nobody owns partition {}: do workers run?", free.join(", ")));
    }
    let letters = snapshot.dead_letters;
    if letters.dead > 0 {
        needs.push(format!(
            "{} dead letter(s) wait for a decision, and {} callback(s) behind them: see `ackline \
             dead-letters list`",
            letters.dead, letters.held
        ));
    }
    needs.iter().map(|need| printable(need)).collect()
}

/// The name of the partition's owner, if it has renewed its lease in time.
fn owner(state: &PartitionState, now: DateTime<Utc>) -> Option<&str> {
    let is_held = state.lease_until.is_some_and(|until| until > now);
    state.owner.as_deref().filter(|_| is_held)
}

fn show(out: &mut Output<impl Write>, snapshot: &Snapshot, now: DateTime<Utc>) -> io::Result<()> {
    let jobs: Vec<_> = JobStatus::all()
        .map(|status| {
            let count = snapshot.jobs.of(status);
            let more = if count.more { "more than " } else { "" };
            let count = format!("{more}{} {}", count.number, status.as_str());
            out.paint(&count, Some(status.into()))
        })
        .collect();
    let quietest: Vec<_> = snapshot
        .quietest
        .iter()
        .map(|job| {
            let silence = span(snapshot.at.signed_duration_since(job.updated_at));
            format!("{} for {silence}", printable(&job.id))
        })
        .collect();
    let letters = snapshot.dead_letters;
    let letters = match (letters.dead, letters.held) {
        (0, 0) => "none".to_owned(),
        (dead, held) => {
            let more = if letters.more { " or more" } else { "" };
            let counts = format!("{dead}, with {held} held behind{more}");
            out.paint(&counts, Some(Colour::Red))
        }
    };
    for (name, value) in [
        ("jobs", jobs.join(", ")),
        ("quietest", dash_if_empty(&quietest.join(", "))),
        ("dead letters", letters),
        ("refused", refused(&snapshot.refusals)),
    ] {
        writeln!(out, "{name:<13} {value}")?;
    }
    writeln!(out)?;
    partitions(&snapshot.partitions, now).print(out)
}

fn partitions(states: &[PartitionState], now: DateTime<Utc>) -> Table {
    let mut table =
        Table::new(["PARTITION", "OWNER", "WAITING", "FOR", "CALLBACKS", "FULL", "STATE"]);
    for state in states {
        let owner = owner(state, now);
        let stream = state.stream.filter(|stream| stream.max_bytes > 0);
        let full = stream.map(|stream| 100.0 * stream.bytes as f64 / stream.max_bytes as f64);
        let (said, colour) = match (&state.stopped_reason, owner) {
            (Some(reason), _) => (format!("stopped: {reason}"), Some(Colour::Red)),
            (None, None) => ("waiting for a worker".to_owned(), Some(Colour::Yellow)),
            (None, Some(_)) => ("in order".to_owned(), None),
        };
        let row = table.row([
            format!("{:02}", state.partition),
            text(owner),
            state.lag_messages.map_or("-".into(), |lag| lag.to_string()),
            state.lag_seconds.filter(|lag| *lag > 0.0).map_or("-".into(), seconds),
            state.applied_callbacks.to_string(),
            full.map_or("-".into(), |full| format!("{full:.0} %")),
            said,
        ]);
        if let Some(colour) = colour {
            row.paint(6, colour);
        }
    }
    table
}

fn refused(refusals: &Refusals) -> String {
    if refusals.ingresses.is_empty() {
        return "not known: no ingress is asked, or none answers (INGRESS_OPS)".to_owned();
    }
    let reasons: Vec<_> = refusals
        .by_reason
        .iter()
        .map(|(reason, requests)| format!("{requests} {}", printable(reason)))
        .collect();
    let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
    let (accepted, ingresses) = (refusals.accepted, refusals.ingresses.len());
    format!("{reasons}; accepted {accepted}, since the {ingresses} ingress process(es) started")
}

fn dash_if_empty(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::output::tests::written;
    use worker::observe::{DeadLetterCounts, StreamState};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn owned(partition: i32) -> PartitionState {
        PartitionState {
            partition,
            owner: Some("worker-a".into()),
            lease_until: Some(at(10)),
            stream: Some(StreamState { first_seq: 1, last_seq: 9, bytes: 50, max_bytes: 200 }),
            lag_messages: Some(2),
            lag_seconds: Some(0.5),
            applied_callbacks: 7,
            ..PartitionState::default()
        }
    }

    #[test]
    fn what_needs_somebody_is_named() {
        let mut snapshot =
            Snapshot { at: at(0), partitions: vec![owned(0), owned(1)], ..Snapshot::default() };
        assert!(needs(&snapshot, at(0)).is_empty());
        // The worker was killed, and nobody has taken its place.
        let late = needs(&snapshot, at(10));
        assert_eq!(late, ["nobody owns partition 00, 01: do workers run?"]);

        snapshot.partitions[1].owner = None;
        snapshot.partitions[0].stopped_reason = Some("\u{1b}[2J".into());
        snapshot.dead_letters = DeadLetterCounts { dead: 1, held: 2, more: false };
        snapshot.problems.push("the broker is away".into());
        let all = needs(&snapshot, at(0));
        assert_eq!(all[..2], ["the broker is away", "partition 00 is stopped: U+001B[2J"]);
        assert_eq!(all[2], "nobody owns partition 01: do workers run?");
        assert!(all[3].starts_with("1 dead letter(s) wait for a decision, and 2"), "{all:?}");
        assert_eq!(all.len(), 4);
        // What is held behind a decided letter continues by itself.
        snapshot.dead_letters.dead = 0;
        assert_eq!(needs(&snapshot, at(0)).len(), 3);
    }

    #[test]
    fn everything_is_shown_in_its_colour() {
        let mut snapshot = Snapshot {
            at: at(0),
            partitions: vec![owned(0), PartitionState { partition: 1, ..owned(1) }],
            ..Snapshot::default()
        };
        snapshot.partitions[1].owner = None;
        snapshot.jobs.running = 100_000;
        snapshot.jobs.more.push(JobStatus::Running);
        snapshot.jobs.failed = 3;
        snapshot.refusals.ingresses.push("127.0.0.1:9080".into());
        snapshot.refusals.by_reason.insert("malformed".into(), 4);
        let quiet = worker::store::observe::Quiet {
            id: "quiet\u{202e}".into(),
            updated_at: at(0) - TimeDelta::seconds(75),
        };
        snapshot.quietest.push(quiet);
        let plain = written(false, |out| show(out, &snapshot, at(0)));
        assert_eq!(
            plain,
            "jobs          0 queued, 0 provisioning, more than 100000 running, 3 failed\n\
             quietest      quietU+202E for 1 min 15 s\n\
             dead letters  none\n\
             refused       4 malformed; accepted 0, since the 1 ingress process(es) started\n\n\
             PARTITION  OWNER     WAITING  FOR     CALLBACKS  FULL  STATE\n\
             00         worker-a  2        500 ms  7          25 %  in order\n\
             01         -         2        500 ms  7          25 %  waiting for a worker\n"
        );
        let painted = written(true, |out| show(out, &snapshot, at(0)));
        for part in ["\x1b[31m3 failed\x1b[0m", "\x1b[33mwaiting for a worker\x1b[0m"] {
            assert!(painted.contains(part), "{painted:?}");
        }
    }
}
