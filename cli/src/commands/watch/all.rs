//! All jobs, a line for each event.

use std::io::Write;

use chrono::{DateTime, Utc};
use sea_orm::{DatabaseConnection, DbErr};

use super::line::Line;
use super::look::Look;
use crate::output::Output;
use worker::entity::job_event::Model as Event;
use worker::store::{read, schema};

/// Tells every event from now on, in order within each partition, until the user has seen enough.
///
/// # Errors
/// When `out` can't be written to.
pub(super) async fn watch(
    db: &DatabaseConnection,
    mut look: Look,
    as_json: bool,
    out: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let mut told = Told::default();
    loop {
        let news = look.heard(told.news(db)).await.unwrap_or_default();
        for (_, event) in news.events {
            Line::Event(Box::new(event)).print(out, as_json)?;
        }
        if !news.is_all && !look.shutdown.is_cancelled() {
            continue;
        }
        if !look.pause().await {
            return Ok(());
        }
    }
}

/// Up to which stream sequence the events of each partition were told.
#[derive(Debug, Default)]
struct Told(Vec<i64>);

struct News {
    /// With the time by which the partitions' events are put between each other.
    events: Vec<(DateTime<Utc>, Event)>,
    is_all: bool,
}

impl Default for News {
    fn default() -> Self {
        Self { events: Vec::new(), is_all: true }
    }
}

impl Told {
    /// A page of each partition's events since it was asked for last. An error changes nothing.
    async fn news(&mut self, db: &DatabaseConnection) -> Result<News, DbErr> {
        let rows = schema::partitions(db).await?;
        let now: Vec<i64> = rows.iter().map(|row| row.applied_seq).collect();
        if self.0.len() != now.len() {
            self.0 = now;
            return Ok(News::default());
        }
        let mut news = News::default();
        let mut told = Vec::with_capacity(now.len());
        for (row, above) in rows.iter().zip(&self.0) {
            // After a restore the checkpoint is further back, and what comes again is told again.
            let above = Ord::min(*above, row.applied_seq);
            let (to, number) = (row.applied_seq, row.partition);
            if above == to {
                told.push(to);
                continue;
            }
            let between = read::events_between(db, number, above, to).await?;
            told.push(between.up_to);
            news.is_all &= between.up_to == to;
            // The order within a partition counts, even if a clock was set back.
            let mut time = DateTime::UNIX_EPOCH;
            news.events.extend(between.events.into_iter().map(|event| {
                time = time.max(event.received_at);
                (time, event)
            }));
        }
        self.0 = told;
        news.events.sort_by_key(|(time, _)| *time);
        Ok(news)
    }
}
