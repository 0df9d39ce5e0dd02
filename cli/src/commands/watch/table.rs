//! All jobs, as a table that stays where it is: for a person before a terminal.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use sea_orm::{DatabaseConnection, DbErr};

use super::look::Look;
use crate::output::Output;
use crate::output::job::{failure, run_of, status};
use crate::output::print::{Table, cut};
use worker::entity::job::{Model as Job, Status};
use worker::observe::humanize::span;
use worker::store::read::{self, JobFilter};

/// How many of the newest jobs of each status are looked at.
const MOST: u64 = 200;
/// Beside the jobs: the head of the table, the last line, and where the cursor stands.
const OTHER_LINES: usize = 3;

/// Shows the jobs that have not finished, and below them those that finished last, until the user
/// has seen enough.
///
/// # Errors
/// When `out` can't be written to.
pub(super) async fn watch(
    db: &DatabaseConnection,
    mut look: Look,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let mut screen = Screen::default();
    loop {
        let was_away = look.is_away;
        let found = look.heard(Jobs::find(db)).await;
        if was_away != look.is_away {
            // The log has said so below the table, which goes on below that.
            screen = Screen::default();
        }
        if let Some(jobs) = found {
            let (columns, rows) = out.size();
            // A line that reaches the last column would lose it to what clears the rest.
            let lines = jobs.lines(out, columns.saturating_sub(1), rows);
            screen.draw(out, &lines)?;
        }
        if !look.pause().await {
            return Ok(());
        }
    }
}

struct Jobs {
    unfinished: Vec<Job>,
    finished: Vec<Job>,
    now: DateTime<Utc>,
}

impl Jobs {
    async fn find(db: &DatabaseConnection) -> Result<Self, DbErr> {
        let of_status = async |status| {
            let filter = JobFilter { status: Some(status), ..JobFilter::default() };
            read::jobs(db, &filter, None, MOST).await
        };
        let of = async |is_finished| -> Result<_, DbErr> {
            let statuses = Status::all().filter(|status| status.is_finished() == is_finished);
            Ok(try_join_all(statuses.map(of_status)).await?.concat())
        };
        let mut unfinished = of(false).await?;
        unfinished.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        let mut finished = of(true).await?;
        finished.sort_by(|a, b| (b.finished_at, &b.id).cmp(&(a.finished_at, &a.id)));
        Ok(Self { unfinished, finished, now: read::now(db).await? })
    }

    /// What fits on a terminal of that size. Of what does not, those that have not finished go
    /// before, but for a third of the place.
    fn lines<W>(&self, out: &Output<W>, columns: usize, rows: usize) -> Vec<String> {
        let room = rows.saturating_sub(OTHER_LINES).max(1);
        let finished = Ord::max(room / 3, room.saturating_sub(self.unfinished.len()));
        let finished = Ord::min(finished, self.finished.len());
        let unfinished = Ord::min(room - finished, self.unfinished.len());
        let mut table = Table::new(["JOB", "STATUS", "RUN", "HEARTBEATS", "LAST HEARD", "ERROR"]);
        for job in self.unfinished[..unfinished].iter().chain(&self.finished[..finished]) {
            let last = job.finished_at.unwrap_or(job.updated_at);
            let row = table.row([
                job.id.clone(),
                status(job),
                run_of(job.workflow_run_id.as_deref(), job.run_attempt),
                job.heartbeat_count.to_string(),
                format!("{} ago", span(self.now.signed_duration_since(last))),
                failure(job.failed_step.as_deref(), job.error.as_deref()),
            ]);
            row.paint(1, job.status);
        }
        let mut lines = table.lines(out, columns);
        let more = if unfinished < self.unfinished.len() { "; there are more" } else { "" };
        let at = self.now.format("%Y-%m-%d %H:%M:%S");
        lines.push(cut(&format!("{at} UTC{more}; Ctrl-C ends"), columns));
        lines
    }
}

/// The part of the terminal that is drawn again and again.
#[derive(Debug, Default)]
struct Screen {
    /// How many lines above the cursor are its own.
    drawn: usize,
}

impl Screen {
    /// Draws these lines in the place of those that were drawn before, at once, so that nothing
    /// flickers. Every line must fit into one of the terminal's.
    fn draw(&mut self, out: &mut impl Write, lines: &[String]) -> io::Result<()> {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            // The rest of a line, and at the end all that is below, is from before.
            text.push_str(&format!("\r{line}\x1b[K\n"));
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::{at, job};
    use super::*;
    use crate::output::tests::written;

    fn jobs(unfinished: usize, finished: usize) -> Jobs {
        let of = |status: Status, count: usize| {
            (0..count).map(|n| job(&format!("{}-{n}", status.as_str()), status, 0)).collect()
        };
        Jobs {
            unfinished: of(Status::Provisioning, unfinished),
            finished: of(Status::Running, finished),
            now: at(75),
        }
    }

    fn lines(jobs: &Jobs, columns: usize, rows: usize) -> Vec<String> {
        let mut lines = Vec::new();
        written(false, |out| {
            lines = jobs.lines(out, columns, rows);
            Ok(())
        });
        lines
    }

    #[test]
    fn the_table_fits_onto_the_terminal() {
        let shown = lines(&jobs(1, 1), 80, 24);
        assert!(shown[1].starts_with("provisioning-0  provisioning"), "{shown:?}");
        assert!(shown[1].contains("1 min 15 s ago"), "{shown:?}");
        assert!(shown[2].starts_with("running-0"), "{shown:?}");
        assert_eq!(shown[3], "2023-11-14 22:14:35 UTC; Ctrl-C ends");
        let count = |jobs: Jobs, rows| {
            let shown = lines(&jobs, 40, rows);
            assert!(shown.len() < Ord::max(rows, 4), "{shown:?}");
            assert!(shown.iter().all(|line| line.chars().count() <= 40), "{shown:?}");
            let with = |start: &str| shown.iter().filter(|line| line.starts_with(start)).count();
            let has_more = shown.last().unwrap().contains("there are more");
            (with("provisioning-"), with("running-"), has_more)
        };
        assert_eq!(count(jobs(2, 50), 13), (2, 8, false));
        assert_eq!(count(jobs(50, 50), 13), (7, 3, true));
        assert_eq!(count(jobs(9, 1), 13), (9, 1, false));
        assert_eq!(count(jobs(50, 0), 13), (10, 0, true));
        assert_eq!(count(jobs(5, 5), 1), (1, 0, true));
    }

    #[test]
    fn it_is_drawn_in_its_own_place() {
        let mut screen = Screen::default();
        let mut draw = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            written(true, |out| screen.draw(out, &lines))
        };
        assert_eq!(draw(&["a", "b"]), "\ra\x1b[K\n\rb\x1b[K\n\x1b[J");
        assert_eq!(draw(&["c"]), "\x1b[2A\rc\x1b[K\n\x1b[J");
        assert_eq!(draw(&["d"]), "\x1b[1A\rd\x1b[K\n\x1b[J");
    }
}
