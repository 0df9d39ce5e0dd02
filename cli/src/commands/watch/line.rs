//! What is said about a job, in one line.

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::output::Output;
use crate::output::job::{failure, run_of, status};
use crate::output::print::{printable, time};
use worker::entity::job::Model as Job;
use worker::entity::job_event::{Effect, Model as Event};

/// One thing that is said; as JSON an object whose only field names what it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// How the job stands.
    Job(Box<Job>),
    /// What a callback did.
    Event(Box<Event>),
    /// How many heartbeats of the current run there were.
    Heartbeats {
        /// The job.
        job_id: String,
        /// Their number.
        count: i32,
        /// When the stream stored the last one.
        last_at: Option<DateTime<Utc>>,
    },
}

impl Line {
    pub(super) fn print(&self, out: &mut Output<impl Write>, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            serde_json::to_writer(&mut *out, self).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            let text = self.text(out);
            writeln!(out, "{text}")?;
        }
        // Whoever reads along waits for it.
        Ok(out.flush()?)
    }

    /// `TIME  JOB  WHAT`, and what else there is to say.
    fn text(&self, out: &Output<impl Write>) -> String {
        match self {
            Self::Job(job) => {
                let status = out.paint(&status(job), Some(job.status.into()));
                let error =
                    job.failed_step.as_ref().or(job.error.as_ref()).map(|_| {
                        printable(&failure(job.failed_step.as_deref(), job.error.as_deref()))
                    });
                let rest = error.map(|error| format!("  {error}")).unwrap_or_default();
                format!("{}  {}  is {status}{rest}", time(Some(job.updated_at)), printable(&job.id))
            }
            Self::Event(event) => {
                let head = (time(Some(event.received_at)), printable(&event.job_id));
                let mut line = format!("{}  {}  {}", head.0, head.1, change(event, out));
                for more in details(event) {
                    line.push_str("  ");
                    line.push_str(&printable(&more));
                }
                line
            }
            Self::Heartbeats { job_id, count, last_at } => {
                format!("{}  {}  heartbeat ({count})", time(*last_at), printable(job_id))
            }
        }
    }
}

/// What has become of the status; what did not change it is named alone.
fn change(event: &Event, out: &Output<impl Write>) -> String {
    let to = event.to_status.filter(|to| event.from_status != Some(*to));
    match (event.from_status, to) {
        (_, None) => event.kind.as_str().to_owned(),
        (None, Some(to)) => format!("→ {}", out.paint(to.as_str(), Some(to.into()))),
        (Some(from), Some(to)) => {
            format!("{} → {}", from.as_str(), out.paint(to.as_str(), Some(to.into())))
        }
    }
}

fn details(event: &Event) -> Vec<String> {
    let is_plain = event.outcome == Effect::Applied && event.reason.is_none();
    let outcome = match &event.reason {
        _ if is_plain => None,
        None => Some(event.outcome.as_str().to_owned()),
        Some(reason) => Some(format!("{}: {reason}", event.outcome.as_str())),
    };
    let run = event.workflow_run_id.as_deref();
    let run = run.map(|run| format!("run {}", run_of(Some(run), event.run_attempt)));
    let (step, error) = (event.failed_step.as_deref(), event.error.as_deref());
    let failure = step.or(error).map(|_| failure(step, error));
    [outcome, run, failure].into_iter().flatten().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use super::*;
    use crate::output::tests::written;
    use worker::entity::job::Status;
    use worker::entity::job_event::Kind;

    pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    pub(crate) fn job(id: &str, status: Status, created: i64) -> Job {
        Job { status, ..Job::queued(id.into(), at(created), 1, 0) }
    }

    pub(crate) fn event(seq: i64, from: Option<Status>, to: Status) -> Event {
        Event {
            partition: 0,
            seq,
            idx: 0,
            job_id: "a\u{7}".into(),
            kind: match to {
                Status::Queued => Kind::Queued,
                Status::Provisioning => Kind::Provisioning,
                Status::Running => Kind::Running,
                Status::Failed => Kind::Failed,
            },
            from_status: from,
            to_status: Some(to),
            outcome: Effect::Applied,
            reason: None,
            event_id: None,
            workflow_run_id: None,
            run_attempt: None,
            error: None,
            failed_step: None,
            outputs: None,
            phase: None,
            speaker: None,
            redriven_seq: None,
            redriven_idx: None,
            received_at: at(seq),
        }
    }

    fn said(line: Line, has_colours: bool) -> String {
        written(has_colours, |out| line.print(out, false).map_err(io::Error::other))
    }

    #[test]
    fn an_event_is_a_line() {
        let begun = Line::Event(Box::new(event(1, None, Status::Queued)));
        assert_eq!(said(begun, false), "2023-11-14T22:13:21.000Z  aU+0007  → queued\n");
        let mut failed = event(2, Some(Status::Queued), Status::Failed);
        failed.workflow_run_id = Some("17".into());
        failed.run_attempt = Some(2);
        failed.failed_step = Some("make".into());
        failed.error = Some("two\nlines \u{1b}[2J".into());
        let failed = Line::Event(Box::new(failed));
        assert_eq!(
            said(failed, false),
            "2023-11-14T22:13:22.000Z  aU+0007  queued → failed  run 17 #2  in make: two lines \
             U+001B[2J\n"
        );
        let mut late = event(3, Some(Status::Running), Status::Running);
        late.kind = Kind::Failed;
        late.outcome = Effect::Ignored;
        late.reason = Some("finished".into());
        let late = Line::Event(Box::new(late));
        assert_eq!(
            said(late, true),
            "2023-11-14T22:13:23.000Z  aU+0007  failed  ignored: finished\n"
        );
        let running = event(4, Some(Status::Provisioning), Status::Running);
        let painted = said(Line::Event(Box::new(running)), true);
        assert!(painted.ends_with("provisioning → \x1b[32mrunning\x1b[0m\n"), "{painted:?}");
    }

    #[test]
    fn json_is_one_line() {
        let line = Line::Heartbeats { job_id: "a\n".into(), count: 3, last_at: Some(at(0)) };
        let json = written(false, |out| line.print(out, true).map_err(io::Error::other));
        assert_eq!(
            json,
            "{\"heartbeats\":{\"job_id\":\"a\\n\",\"count\":3,\"last_at\":\"2023-11-14T22:13:20Z\"}}\n"
        );
        assert_eq!(said(line, false), "2023-11-14T22:13:20.000Z  a   heartbeat (3)\n");
    }
}
