//! Pages: how many items, and after which one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::rules::event::Position;
use crate::store::read::JobKey;
use crate::web::problem::Problem;

/// The default number of items on a page.
const USUAL: u64 = 50;
/// The most items on a page.
const MOST: u64 = 500;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// The value of `after` for the next page; none on the last page.
    pub(crate) next: Option<String>,
}

impl<T> Page<T> {
    /// A page of items that were queried with `limit` plus one, which tells whether there are more.
    pub(crate) fn new<M>(
        mut found: Vec<M>,
        limit: u64,
        key: impl Fn(&M) -> String,
        item: impl Fn(M) -> T,
    ) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more).map(key);
        Self { items: found.into_iter().map(item).collect(), next }
    }
}

/// Checks the requested number of items.
pub(crate) fn limit(asked: Option<u64>) -> Result<u64, Problem> {
    match asked.unwrap_or(USUAL) {
        limit if (1..=MOST).contains(&limit) => Ok(limit),
        limit => Err(Problem::bad(format!("limit: {limit} is not from 1 to {MOST}"))),
    }
}

/// The key of a job: its time in microseconds, and its id in hexadecimal.
pub(crate) fn of_job(key: &JobKey) -> String {
    format!("{}-{}", key.created_at.timestamp_micros(), hex::encode(&key.id))
}

/// Reads it.
pub(crate) fn job(text: &str) -> Result<JobKey, Problem> {
    let read = || {
        let (micros, id) = text.split_once('-')?;
        let created_at = DateTime::<Utc>::from_timestamp_micros(micros.parse().ok()?)?;
        // Any text will do, because it is only compared; but PostgreSQL refuses NUL.
        let id = String::from_utf8_lossy(&hex::decode(id).ok()?).replace('\0', "");
        Some(JobKey { created_at, id })
    };
    read().ok_or_else(not_a_key)
}

/// The key of an event of a job.
pub(crate) fn of_event(seq: i64, idx: i32) -> String {
    format!("{seq}-{idx}")
}

/// Reads it.
pub(crate) fn event(text: &str) -> Result<Position, Problem> {
    let read = || {
        let (seq, idx) = text.split_once('-')?;
        Some(Position { seq: seq.parse().ok()?, idx: idx.parse().ok()? })
    };
    read().ok_or_else(not_a_key)
}

fn not_a_key() -> Problem {
    Problem::bad("after: must be what `next` of the page before says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let created_at = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
        for id in ["a", "with space", "ü/../%", ""] {
            let key = JobKey { created_at, id: id.to_owned() };
            assert_eq!(job(&of_job(&key)).unwrap(), key);
        }
        assert_eq!(event(&of_event(7, 3)).unwrap(), Position { seq: 7, idx: 3 });
        for bad in ["", "!", "1", "x-61", "1-6", "1-xx"] {
            assert!(job(bad).is_err(), "{bad}");
        }
        for bad in ["", "1", "1-", "-1", "1-99999999999"] {
            assert!(event(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_says_where_the_next_begins() {
        let page = |found: &[i32]| {
            let page = Page::new(found.to_vec(), 2, i32::to_string, |item| item);
            (page.items, page.next)
        };
        assert_eq!(page(&[1, 2, 3]), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(page(&[1, 2]), (vec![1, 2], None));
        assert_eq!(page(&[]), (vec![], None));
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
        assert_eq!(limit(None).unwrap(), USUAL);
    }
}
