//! What happens, as it happens, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::Stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::IntoParams;

use crate::store::read;
use crate::web::extractors::InQuery;
use crate::web::problem::{Problem, Wrong};
use crate::web::state::{Backend, Web};

/// How many messages may wait for a slow reader.
const AHEAD: usize = 64;
/// The longest time without a message, so that a lost reader is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What to stream, and from where.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Streamed {
    /// Whether to send what each callback did; by default true.
    events: Option<bool>,
    /// Where to resume: the `id` of an earlier message; by default now. `Last-Event-ID` takes
    /// precedence.
    from: Option<String>,
}

/// What happens, as server-sent events.
///
/// `event: checkpoint` names the partitions that have moved, as
/// `{"partitions":[{"partition":3, "applied_seq":17}]}`, and its `id` is where to resume after an
/// interruption. The events up to that point come before it, in order within each partition, each
/// an `event: event` with the fields of `/api/v1/jobs/{id}/events`. Heartbeats move a checkpoint,
/// and appear as events only if they change a job's status.
#[utoipa::path(
    get,
    path = "/api/v1/stream",
    params(Streamed),
    responses(
        (status = 200, description = "A stream without an end.", body = String, content_type = "text/event-stream"),
        Wrong
    )
)]
pub(super) async fn stream(
    State(web): State<Web>,
    headers: HeaderMap,
    InQuery(asked): InQuery<Streamed>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let from = last.or(asked.from.as_deref()).map(checkpoints).transpose()?;
    let backend = web.backend()?;
    let partitions = web.view.fresh().await.partitions.len();
    if partitions == 0 {
        return Err(Problem::connecting());
    }
    if from.as_ref().is_some_and(|from| from.len() != partitions) {
        return Err(not_a_point());
    }
    let permit = web.wait()?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let follower = Follower { backend, sender, events: asked.events.unwrap_or(true), permit };
    let ending = web.ending.clone();
    tokio::spawn(async move { ending.run_until_cancelled_owned(follower.run(web, from)).await });
    let events = futures::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|event| (Ok(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Reads the checkpoints of all partitions.
fn checkpoints(id: &str) -> Result<Vec<i64>, Problem> {
    let read = |part: &str| part.parse().ok().filter(|seq| *seq >= 0);
    let found: Option<Vec<i64>> = id.split(',').map(read).collect();
    found.ok_or_else(not_a_point)
}

fn not_a_point() -> Problem {
    Problem::bad("from: must be the id of an earlier message of this stream")
}

/// Follows the checkpoints for one reader.
struct Follower {
    backend: Backend,
    sender: mpsc::Sender<sse::Event>,
    events: bool,
    #[expect(dead_code, reason = "it is held as long as the reader is there")]
    permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Runs until the reader is gone.
    async fn run(self, web: Web, from: Option<Vec<i64>>) {
        let mut snapshots = web.view.watch();
        let mut known = from;
        loop {
            let now: Vec<i64> = {
                let snapshot = snapshots.borrow_and_update();
                snapshot.partitions.iter().map(|state| state.applied_seq).collect()
            };
            // Ids of before do not fit another number of partitions.
            if known.as_ref().is_some_and(|known| known.len() != now.len()) {
                return;
            }
            if known.as_ref() != Some(&now) {
                let before = known.unwrap_or_else(|| now.clone());
                if self.tell(&before, &now).await.is_err() {
                    return;
                }
            }
            known = Some(now);
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = self.sender.closed() => return,
            }
        }
    }

    /// Sends what lies between two looks. An error means that the reader is gone.
    async fn tell(&self, before: &[i64], now: &[i64]) -> Result<(), ()> {
        let moved: Vec<_> =
            (0..).zip(before.iter().zip(now)).filter(|(_, (before, now))| before != now).collect();
        if self.events {
            for (partition, (before, now)) in &moved {
                self.tell_events(*partition, **before, **now).await?;
            }
        }
        let moved: Vec<_> = moved
            .iter()
            .map(|(partition, (_, now))| json!({ "partition": partition, "applied_seq": now }))
            .collect();
        let id: Vec<_> = now.iter().map(i64::to_string).collect();
        let event = sse::Event::default().event("checkpoint").id(id.join(","));
        self.send(event.json_data(json!({ "partitions": moved }))).await
    }

    async fn tell_events(&self, partition: i32, above: i64, to: i64) -> Result<(), ()> {
        let mut above = above;
        while above < to {
            let read = read::events_between(&self.backend.db, partition, above, to).await;
            let between = read.map_err(|error| {
                tracing::warn!(%error, "a reader of the event stream is sent away: {error}");
            })?;
            above = between.up_to;
            for event in between.events {
                let event = sse::Event::default().event("event").json_data(event);
                self.send(event).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, event: Result<sse::Event, axum::Error>) -> Result<(), ()> {
        self.sender.send(event.map_err(drop)?).await.map_err(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_checkpoint_for_each_partition() {
        assert_eq!(checkpoints("0,12,7").unwrap(), [0, 12, 7]);
        for bad in ["", "a", "1,,2", "-1", "1;2"] {
            assert!(checkpoints(bad).is_err(), "{bad}");
        }
    }
}
