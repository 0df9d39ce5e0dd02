//! One job, until it has finished.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use sea_orm::{DatabaseConnection, DbErr};

use super::line::Line;
use super::look::{Look, Unfinished};
use crate::output::Output;
use crate::output::job::failure;
use crate::output::print::printable;
use worker::entity::job::{Model as Job, Status};
use worker::entity::job_event::Model as Event;
use worker::rules::event::Position;
use worker::store::read;

/// More events than that of one job are told with the next look.
const MOST: u64 = 10_000;

/// Watches the job: tells how it stands, then what happens, until it has finished.
///
/// # Errors
/// When the job failed; [`Unfinished`] after the timeout and when the user has seen enough.
pub(super) async fn watch(
    db: &DatabaseConnection,
    mut look: Look,
    id: &str,
    timeout: Option<Duration>,
    as_json: bool,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let mut told = Told::default();
    let following = follow(db, &mut look, id, &mut told, as_json, out);
    let finished = match timeout {
        None => following.await?,
        Some(timeout) => match tokio::time::timeout(timeout, following).await {
            Ok(finished) => finished?,
            Err(_) => bail!(Unfinished(format!("{} after {timeout:?}", told.stands(id)))),
        },
    };
    match finished {
        Some(job) => outcome(&job),
        None => bail!(Unfinished(format!("{}, and is watched no more", told.stands(id)))),
    }
}

/// Tells of the job until it has finished; none when the user has seen enough.
async fn follow(
    db: &DatabaseConnection,
    look: &mut Look,
    id: &str,
    told: &mut Told,
    as_json: bool,
    out: &mut Output<impl Write>,
) -> anyhow::Result<Option<Job>> {
    loop {
        let lines = look.heard(told.news(db, id)).await.unwrap_or_default();
        for line in &lines {
            line.print(out, as_json)?;
        }
        if let Some(job) = told.job.as_ref().filter(|job| job.status.is_finished()) {
            // For a program the last line has everything about it.
            if as_json && !matches!(lines.last(), Some(Line::Job(_))) {
                Line::Job(Box::new(job.clone())).print(out, as_json)?;
            }
            return Ok(told.job.take());
        }
        if !look.pause().await {
            return Ok(None);
        }
    }
}

fn outcome(job: &Job) -> anyhow::Result<()> {
    if job.status != Status::Failed {
        return Ok(());
    }
    let (step, error) = (job.failed_step.as_deref(), job.error.as_deref());
    match step.or(error) {
        None => bail!("the job {:?} failed", job.id),
        Some(_) => bail!("the job {:?} failed: {}", job.id, printable(&failure(step, error))),
    }
}

/// What was told of the job so far.
#[derive(Debug, Default)]
struct Told {
    has_begun: bool,
    /// The last event that was told, or that was there before.
    after: Option<Position>,
    heartbeats: i32,
    job: Option<Job>,
}

impl Told {
    /// What has happened since it was asked for last; at first, how the job stands. An error changes
    /// nothing.
    async fn news(&mut self, db: &DatabaseConnection, id: &str) -> Result<Vec<Line>, DbErr> {
        if !self.has_begun {
            // What comes between these two looks is an event of the next one.
            let last = read::events_before(db, id, None, 1).await?.pop();
            let job = read::job(db, id).await?;
            self.has_begun = true;
            self.after = last.as_ref().map(Position::from);
            self.heartbeats = job.as_ref().map_or(0, |job| job.heartbeat_count);
            self.job.clone_from(&job);
            if job.is_none() {
                tracing::info!("there is no job {id:?} yet");
            }
            return Ok(job.into_iter().map(|job| Line::Job(Box::new(job))).collect());
        }
        // The row first: what made it so is then among the events.
        let job = read::job(db, id).await?;
        let events = read::events_after(db, id, self.after, MOST).await?;
        Ok(self.tell(job, events))
    }

    fn stands(&self, id: &str) -> String {
        match &self.job {
            None => format!("the job {id:?} is not known"),
            Some(job) => format!("the job {id:?} is {}", job.status.as_str()),
        }
    }

    fn tell(&mut self, job: Option<Job>, events: Vec<Event>) -> Vec<Line> {
        self.after = events.last().map(Position::from).or(self.after);
        let beat = job
            .as_ref()
            .filter(|job| job.heartbeat_count > 0 && job.heartbeat_count != self.heartbeats);
        let heard_at = beat.and_then(|job| job.last_heartbeat_at);
        let beat = beat.map(|job| Line::Heartbeats {
            job_id: job.id.clone(),
            count: job.heartbeat_count,
            last_at: job.last_heartbeat_at,
        });
        self.heartbeats = job.as_ref().map_or(0, |job| job.heartbeat_count);
        self.job = job;
        let before = events.partition_point(|event| Some(event.received_at) <= heard_at);
        let place = if beat.is_some() { before } else { 0 };
        let mut lines: Vec<_> =
            events.into_iter().map(|event| Line::Event(Box::new(event))).collect();
        lines.splice(place..place, beat);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::{at, event, job};
    use super::*;

    /// Events by their sequences, heartbeats by their number.
    fn said(lines: &[Line]) -> Vec<String> {
        let say = |line: &Line| match line {
            Line::Job(_) => "job".to_owned(),
            Line::Event(event) => format!("event {}", event.seq),
            Line::Heartbeats { count, .. } => format!("heartbeat {count}"),
        };
        lines.iter().map(say).collect()
    }

    fn beaten(count: i32, at_s: i64) -> Job {
        let mut job = job("a", Status::Provisioning, 0);
        (job.heartbeat_count, job.last_heartbeat_at) = (count, Some(at(at_s)));
        job
    }

    #[test]
    fn heartbeats_are_told_when_their_count_moves_and_where_they_came() {
        let mut told = Told { has_begun: true, ..Told::default() };
        let begun = event(1, None, Status::Provisioning);
        let lines = told.tell(Some(job("a", Status::Provisioning, 1)), vec![begun]);
        assert_eq!(said(&lines), ["event 1"]);
        let lines = told.tell(Some(beaten(2, 3)), Vec::new());
        assert_eq!(said(&lines), ["heartbeat 2"]);
        assert!(told.tell(Some(beaten(2, 3)), Vec::new()).is_empty());
        let events = [4, 6].map(|seq| event(seq, Some(Status::Provisioning), Status::Running));
        let lines = told.tell(Some(beaten(3, 5)), events.to_vec());
        assert_eq!(said(&lines), ["event 4", "heartbeat 3", "event 6"]);
        // A new run begins to count anew.
        assert!(told.tell(Some(beaten(0, 5)), Vec::new()).is_empty());
        assert_eq!(said(&told.tell(Some(beaten(1, 7)), Vec::new())), ["heartbeat 1"]);
        assert_eq!(told.after.map(|last| last.seq), Some(6));
    }

    #[test]
    fn how_a_job_ended_is_the_outcome() {
        assert!(outcome(&job("a", Status::Running, 0)).is_ok());
        let mut failed = job("a", Status::Failed, 0);
        assert_eq!(outcome(&failed).unwrap_err().to_string(), "the job \"a\" failed");
        failed.error = Some("\u{1b}[2J".into());
        let said = outcome(&failed).unwrap_err().to_string();
        assert_eq!(said, "the job \"a\" failed: U+001B[2J");
    }
}
