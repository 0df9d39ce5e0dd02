//! Looks at partitions, jobs and ingresses periodically. One look serves the metrics and every
//! watcher. While nobody watches, most looks are only at what this process owns, so that what
//! workers ask does not grow with their number times the number of partitions.

mod history;
pub mod humanize;
mod metrics;
mod refusals;
mod snapshot;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use sea_orm::{DatabaseConnection, DbErr};
use shared::stream::{self, Gate};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::entity::dead_letter::State;
use crate::entity::job::Status;
use crate::entity::partition::Model as Row;
use crate::liveness::Silence;
use crate::partition::lease::Renewed;
use crate::store::observe::{self, Counted, Letters, Quiet, Reach};
use crate::store::{accept, schema};

use history::History;
pub use refusals::Refusals;
pub use snapshot::{DeadLetterCounts, JobCounts, PartitionState, Sample, Snapshot, StreamState};

/// The time between two looks while somebody watches, and while nobody does.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The shortest and the longest time between two counts of jobs, and between two looks at everything,
/// while nobody watches.
const CALM_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Counting may take one part in this many of the time.
const COUNT_SHARE: u32 = 20;
/// How long somebody who asks once waits for a fresh look: longer than the database is waited for,
/// so that its silence is shown.
const FRESH_LIMIT: Duration = Duration::from_secs(6);
/// How many of the jobs that have been silent for longest are named.
const QUIETEST: u64 = 5;
/// How long the broker may take to describe a stream, and the database to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Describes each metric. Call once, after the recorder is installed.
pub fn describe_metrics() {
    metrics::describe();
}

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The database, over connections of its own.
    pub db: DatabaseConnection,
    /// The broker; none if it cannot be reached.
    pub jetstream: Option<jetstream::Context>,
    /// The ops listeners of ingresses, as `host:port`.
    pub ingresses: Vec<String>,
}

/// The last snapshot, and a way to ask for the next one soon.
#[derive(Debug, Clone)]
pub struct View {
    // Every receiver is a watcher.
    snapshot: watch::Sender<Arc<Snapshot>>,
    wanted: Arc<Notify>,
}

impl View {
    /// The last snapshot.
    #[must_use]
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// A snapshot of a few seconds ago, or a new one; the last one if that takes too long.
    pub async fn fresh(&self) -> Arc<Snapshot> {
        #[expect(clippy::disallowed_methods, reason = "at worst, there is one more look")]
        let age = Utc::now().signed_duration_since(self.snapshot.borrow().at).to_std();
        if age.is_err() || age.is_ok_and(|age| age > INTERVAL.1) {
            let mut next = self.watch();
            let _ = timeout(FRESH_LIMIT, next.changed()).await;
        }
        self.now()
    }

    /// A receiver of every snapshot from now on; a slow one gets only the latest. While it lives,
    /// there is a snapshot every second.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        let watcher = self.snapshot.subscribe();
        self.wanted.notify_one();
        watcher
    }
}

/// The task that looks.
#[derive(Debug)]
pub struct Observer {
    snapshot: watch::Sender<Arc<Snapshot>>,
    wanted: Arc<Notify>,
}

impl Observer {
    /// An observer that has not looked yet, and its view.
    #[must_use]
    pub fn new() -> (Self, View) {
        let (snapshot, _) = watch::channel(Arc::default());
        let wanted = Arc::new(Notify::new());
        let view = View { snapshot: snapshot.clone(), wanted: Arc::clone(&wanted) };
        (Self { snapshot, wanted }, view)
    }

    /// Looks periodically, for ever, and exports the metrics: lag and size of every partition, because
    /// its owner may not see them; the rest of those that are `owned`.
    pub(crate) async fn run(
        self,
        sources: Sources,
        owned: watch::Receiver<Renewed>,
        silence: Silence,
    ) {
        let calm = (silence.heartbeat / 6).clamp(CALM_INTERVAL.0, CALM_INTERVAL.1);
        let mut looker = Looker::new(sources);
        let mut history = History::default();
        let mut shown = 0;
        let mut owned_before = false;
        let mut next_whole = Instant::now();
        loop {
            let is_watched = self.snapshot.receiver_count() > 0;
            let owned: BTreeSet<i32> = owned.borrow().owned.keys().copied().collect();
            looker.between_counts = if is_watched { INTERVAL.0 } else { calm };
            // Without a watcher, counts are only for the metrics of what is owned.
            looker.counts = is_watched || !owned.is_empty();
            if is_watched || Instant::now() >= next_whole {
                let mut snapshot = looker.look().await;
                next_whole = Instant::now() + calm;
                history.add(snapshot.at, &snapshot.partitions);
                snapshot.history = history.samples();
                show_streams(&snapshot, &mut shown);
                looker.show_owned(&snapshot, &owned);
                if looker.counts {
                    self.snapshot.send_replace(Arc::new(snapshot));
                }
            } else if owned_before || !owned.is_empty() {
                let snapshot = looker.look_at(Some(&owned)).await;
                for state in snapshot.partitions.iter().filter(|one| owned.contains(&one.partition))
                {
                    show_stream(state);
                }
                looker.show_owned(&snapshot, &owned);
            }
            owned_before = !owned.is_empty();
            tokio::select! {
                () = tokio::time::sleep(if is_watched { INTERVAL.0 } else { INTERVAL.1 }) => {}
                () = self.wanted.notified(), if !is_watched => {}
            }
        }
    }
}

/// Looks once. What the previous look found stands in for what does not answer.
#[derive(Debug)]
pub struct Looker {
    sources: Sources,
    rows: Vec<Row>,
    names: HashMap<String, String>,
    letters: Vec<Letters>,
    counted: Vec<Counted>,
    quietest: Vec<Quiet>,
    /// Whether jobs are counted at all.
    counts: bool,
    between_counts: Duration,
    next_count: Instant,
    /// When the first message behind a checkpoint was stored, by partition and sequence.
    waiting: HashMap<(i32, i64), DateTime<Utc>>,
}

impl Looker {
    /// A looker that has not looked yet.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            rows: Vec::new(),
            names: HashMap::new(),
            letters: Vec::new(),
            counted: Vec::new(),
            quietest: Vec::new(),
            counts: true,
            between_counts: Duration::ZERO,
            next_count: Instant::now(),
            waiting: HashMap::new(),
        }
    }

    /// Looks at everything, and names what could not be reached.
    pub async fn look(&mut self) -> Snapshot {
        self.look_at(None).await
    }

    /// Looks at these partitions only, or at everything.
    async fn look_at(&mut self, scope: Option<&BTreeSet<i32>>) -> Snapshot {
        #[expect(clippy::disallowed_methods, reason = "it is shown, and decides nothing")]
        let at = Utc::now();
        let mut problems = Vec::new();
        match timeout(LIMIT, self.read(scope)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                problems.push(format!("ACK-411: the database does not answer: {error}"))
            }
            Err(_) => problems.push("ACK-411: the database does not answer in time".to_owned()),
        }
        let ingresses = if scope.is_none() { self.sources.ingresses.as_slice() } else { &[] };
        let (streams, (refusals, unseen)) =
            tokio::join!(self.streams(scope), refusals::ask(ingresses));
        if streams.iter().any(Option::is_none) {
            problems.push("ACK-412: the broker does not describe all streams".to_owned());
        }
        if let Some(layout) = schema::layout_of(&self.rows)
            && streams.iter().flatten().any(|(_, gate)| *gate == Gate::Closed)
        {
            problems.push(format!(
                "ACK-414: the streams of generation {} are closed, and the database has not gone over \
                 to the next ones: `ackline move` is under way, or has not finished; run it again",
                layout.generation()
            ));
        }
        problems.extend(unseen);
        let mut partitions: Vec<_> = self
            .rows
            .iter()
            .zip(streams)
            .map(|(row, stream)| {
                let stream = stream.map(|(state, _)| state);
                PartitionState::new(row.clone(), stream, &self.names, &self.letters)
            })
            .collect();
        self.wait(&mut partitions, at).await;
        Snapshot {
            at,
            problems,
            jobs: JobCounts::sum(self.counted.iter()),
            quietest: self.quietest.clone(),
            dead_letters: DeadLetterCounts::sum(self.letters.iter()),
            partitions,
            refusals,
            history: Vec::new(),
        }
    }

    async fn read(&mut self, scope: Option<&BTreeSet<i32>>) -> Result<(), DbErr> {
        let db = &self.sources.db;
        self.rows = schema::partitions(db).await?;
        if scope.is_none() {
            let workers = accept::workers(db).await?;
            self.names = workers.into_iter().map(|worker| (worker.id, worker.name)).collect();
        }
        let (partitions, reach) = (self.rows.len(), Reach::USUAL);
        self.letters = observe::dead_letters(db, partitions, reach).await?;
        let begun = Instant::now();
        if self.counts && begun >= self.next_count {
            // A count that fails or takes too long waits for as long as the longest one.
            self.next_count = begun + LIMIT * COUNT_SHARE;
            self.counted = observe::jobs(db, partitions, reach).await?;
            self.quietest = observe::quietest(db, partitions, reach, QUIETEST).await?;
            let pause = (begun.elapsed() * COUNT_SHARE).max(self.between_counts);
            self.next_count = Instant::now() + pause;
        }
        Ok(())
    }

    async fn streams(&self, scope: Option<&BTreeSet<i32>>) -> Vec<Option<(StreamState, Gate)>> {
        let layout = schema::layout_of(&self.rows);
        let find = async |row: &Row| {
            let jetstream = self.sources.jetstream.as_ref()?;
            if scope.is_some_and(|scope| !scope.contains(&row.partition)) {
                return None;
            }
            let partition = layout?.partition(row.partition)?;
            let info = timeout(LIMIT, stream::find(jetstream, partition)).await.ok()?.ok()??;
            let state = StreamState {
                first_seq: info.state.first_sequence,
                last_seq: info.state.last_sequence,
                bytes: info.state.bytes,
                max_bytes: u64::try_from(info.config.max_bytes).unwrap_or_default(),
            };
            Some((state, Gate::of(&info.config, partition)))
        };
        join_all(self.rows.iter().map(find)).await
    }

    /// Finds out how long the first message behind each checkpoint has waited.
    async fn wait(&mut self, partitions: &mut [PartitionState], at: DateTime<Utc>) {
        let layout = schema::layout_of(&self.rows);
        let stored = async |state: &PartitionState| {
            let key = (state.partition, state.applied_seq + 1);
            if state.lag_messages? == 0 {
                return None;
            }
            if let Some(stored) = self.waiting.get(&key) {
                return Some((key, *stored));
            }
            let jetstream = self.sources.jetstream.as_ref()?;
            let partition = layout?.partition(state.partition)?;
            let message = async {
                let stream = jetstream.get_stream_no_info(partition.stream()).await.ok()?;
                stream.get_raw_message(u64::try_from(key.1).ok()?).await.ok()
            };
            Some((key, timeout(LIMIT, message).await.ok()??.time))
        };
        let found = join_all(partitions.iter().map(stored)).await;
        self.waiting = found.iter().flatten().copied().collect();
        for (state, found) in partitions.iter_mut().zip(found) {
            state.lag_seconds = match (state.lag_messages, found) {
                (Some(0), _) => Some(0.0),
                (_, Some((_, stored))) => {
                    Some(at.signed_duration_since(stored).as_seconds_f64().max(0.0))
                }
                _ => None,
            };
        }
    }

    /// Exports what is owned.
    fn show_owned(&self, snapshot: &Snapshot, owned: &BTreeSet<i32>) {
        // What is finished may be of a partition that there is no more.
        let partitions = i32::try_from(snapshot.partitions.len()).unwrap_or(i32::MAX).max(1);
        let is_owned = |partition: &i32| owned.contains(&(partition % partitions));
        let jobs = JobCounts::sum(self.counted.iter().filter(|one| is_owned(&one.partition)));
        for status in Status::all() {
            metrics::jobs(status, jobs.of(status).number);
        }
        let silence = jobs.oldest_silence_seconds.unwrap_or_default();
        metrics::oldest_silence(silence);
        let letters =
            DeadLetterCounts::sum(self.letters.iter().filter(|one| is_owned(&one.partition)));
        metrics::dead_letters(State::Dead, letters.dead);
        metrics::dead_letters(State::Held, letters.held);
    }
}

/// Exports lag and size of every partition, and that nothing is known of those that are no more; so
/// many were `shown` before.
fn show_streams(snapshot: &Snapshot, shown: &mut usize) {
    snapshot.partitions.iter().for_each(show_stream);
    for gone in snapshot.partitions.len()..*shown {
        let partition = i32::try_from(gone).unwrap_or(i32::MAX);
        show_stream(&PartitionState { partition, ..PartitionState::default() });
    }
    *shown = snapshot.partitions.len();
}

fn show_stream(state: &PartitionState) {
    let number = state.partition;
    metrics::lag_messages(number, state.lag_messages);
    metrics::lag_seconds(number, state.lag_seconds);
    metrics::stream(number, state.stream.map(|stream| (stream.bytes, stream.max_bytes)));
}
