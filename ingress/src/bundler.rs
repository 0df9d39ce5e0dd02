//! Publishes callbacks, as bundles: a task for each partition.
//!
//! While one bundle of a partition is on its way, the callbacks that arrive form the next one.
//! No timer delays one, so a lone callback leaves at once, and never more than one bundle of a
//! partition is in flight.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use shared::bundle::{self, Metadata};
use shared::partition::Partition;
use shared::trace::TraceContext;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Refusal;
use crate::decision::Stored;
use crate::link::{State, Up};
use crate::measure::InFlight;
use crate::publish::{Bundle, Confirmed, publish};
use crate::signature::Verified;
use crate::turns::{Turn, Turns, Unconfirmed};

/// A verified callback as it will stand in a bundle. Only a [`Verified`] becomes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope(Bytes);

impl Envelope {
    pub(crate) fn new(
        verified: Verified,
        job: String,
        event_id: Option<String>,
        traceparent: Option<TraceContext>,
        received_ms: i64,
    ) -> Self {
        let key = verified.key().to_owned();
        let metadata = Metadata { job, key, received_ms, event_id, traceparent };
        Self(bundle::encode(&metadata, verified.body()))
    }
}

/// A callback that waits for its confirmation.
#[derive(Debug)]
pub(crate) struct Pending {
    envelope: Envelope,
    /// Closed by a sender that waits no longer.
    pub(crate) answer: oneshot::Sender<Result<Stored, Refusal>>,
    /// Its memory counts until it is dropped, also when its sender is gone.
    _in_flight: InFlight,
    _unconfirmed: Unconfirmed,
}

/// The queues of all partitions.
#[derive(Debug)]
pub(crate) struct Bundlers {
    link: watch::Receiver<State>,
    capacity: usize,
    queues: OnceLock<Vec<mpsc::Sender<Pending>>>,
    turns: Arc<Turns>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Bundlers {
    /// Bundlers that publish over `link`; each queues up to `capacity` callbacks.
    pub(crate) fn new(link: watch::Receiver<State>, capacity: usize) -> Self {
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let turns = Arc::new(Turns::new());
        Self { link, capacity, queues: OnceLock::new(), turns, closing, tasks }
    }

    /// Queues a callback; what is returned tells what became of it. Drop that to wait no longer.
    ///
    /// # Errors
    /// [`Refusal::TooMany`] when the partition's queue is full.
    pub(crate) fn submit(
        &self,
        partition: Partition,
        partitions: u16,
        envelope: Envelope,
        in_flight: InFlight,
    ) -> Result<oneshot::Receiver<Result<Stored, Refusal>>, Refusal> {
        let queues = self.queues.get_or_init(|| {
            Partition::all(partitions).map(|partition| self.start(partition)).collect()
        });
        let queue = queues.get(usize::from(partition.number())).ok_or(Refusal::BrokerDown)?;
        let (answer, answered) = oneshot::channel();
        let (_in_flight, _unconfirmed) = (in_flight, self.turns.count());
        let pending = Pending { envelope, answer, _in_flight, _unconfirmed };
        queue.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::TooMany,
            mpsc::error::TrySendError::Closed(_) => Refusal::ShuttingDown,
        })?;
        Ok(answered)
    }

    /// Takes no more callbacks, and returns when those that it has are published or given up.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self, partition: Partition) -> mpsc::Sender<Pending> {
        let (sender, queue) = mpsc::channel(self.capacity);
        let (link, turns) = (self.link.clone(), Arc::clone(&self.turns));
        self.tasks.spawn(run(partition, queue, link, turns, self.closing.clone()));
        sender
    }
}

async fn run(
    partition: Partition,
    mut queue: mpsc::Receiver<Pending>,
    mut link: watch::Receiver<State>,
    turns: Arc<Turns>,
    closing: CancellationToken,
) {
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(first) => Some(first),
            None => tokio::select! {
                first = queue.recv() => first,
                () = closing.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
            },
        };
        let Some(mut first) = first else { return };
        // The limit is the connection's, so a bundle is formed only when there is one.
        let limit = tokio::select! {
            biased;
            () = first.answer.closed() => continue,
            up = up(&mut link) => match up {
                Some(up) => up.bundle_limit,
                None => return,
            },
        };
        let turn = turns.take().await;
        let arrived = || queue.try_recv().ok();
        let (bundle, left_over) = form(partition, first, arrived, limit);
        carried = left_over;
        let Some((bundle, waiting)) = bundle else { continue };
        settle(bundle, waiting, turn, &mut link).await;
    }
}

/// The connection, as soon as there is one; none when ingress ends.
pub(crate) async fn up(link: &mut watch::Receiver<State>) -> Option<Up> {
    let up = link.wait_for(|state| matches!(state, State::Up(_))).await.ok()?;
    match &*up {
        State::Up(up) => Some(Up::clone(up)),
        _ => None,
    }
}

type Waiting = VecDeque<Pending>;

/// Makes a bundle of what has arrived, without those that nobody waits for any more. What does
/// not fit any more begins the next one.
fn form(
    partition: Partition,
    first: Pending,
    mut arrived: impl FnMut() -> Option<Pending>,
    limit: usize,
) -> (Option<(Bundle, Waiting)>, Option<Pending>) {
    let mut waiting = Waiting::new();
    let mut bytes = 0;
    let mut next = Some(first);
    let mut left_over = None;
    while let Some(pending) = next {
        if !pending.answer.is_closed() {
            if !waiting.is_empty() && bytes + pending.envelope.0.len() > limit {
                left_over = Some(pending);
                break;
            }
            bytes += pending.envelope.0.len();
            waiting.push_back(pending);
        }
        next = if waiting.len() < bundle::MAX_CALLBACKS { arrived() } else { None };
    }
    if waiting.is_empty() {
        return (None, left_over);
    }
    let mut payload = BytesMut::with_capacity(bytes);
    for pending in &waiting {
        payload.extend_from_slice(&pending.envelope.0);
    }
    let bundle = Bundle::new(partition, payload.freeze(), waiting.len());
    (Some((bundle, waiting)), left_over)
}

/// Publishes a bundle, as long as anyone waits for it, and tells them.
async fn settle(
    bundle: Bundle,
    mut waiting: Waiting,
    turn: Turn<'_>,
    link: &mut watch::Receiver<State>,
) {
    let outcome = {
        let nobody_waits = async {
            for pending in &mut waiting {
                pending.answer.closed().await;
            }
        };
        tokio::select! {
            biased;
            outcome = publish(&bundle, link) => outcome,
            never = turn.lapse() => match never {},
            () = nobody_waits => {
                tracing::warn!(
                    partition = %bundle.partition,
                    message_id = %bundle.id,
                    callbacks = bundle.callbacks,
                    "gave up the bundle {}: it was not confirmed, its effect is unknown",
                    bundle.id,
                );
                return;
            }
        }
    };
    for (idx, pending) in waiting.into_iter().enumerate() {
        let answer = match outcome {
            Confirmed::Stored { seq } => Ok(Stored { seq, idx }),
            Confirmed::Full => Err(Refusal::StreamFull),
            Confirmed::Ended => Err(Refusal::ShuttingDown),
        };
        // A sender that has just stopped waiting is told nothing: the effect stands.
        let _ = pending.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use shared::places::Places;

    use super::*;

    fn pending(bytes: usize) -> (Pending, oneshot::Receiver<Result<Stored, Refusal>>) {
        let (answer, answered) = oneshot::channel();
        let envelope = Envelope(Bytes::from(vec![b'x'; bytes]));
        let _in_flight = InFlight::new(Places::new(1).try_take().unwrap());
        let _unconfirmed = Arc::new(Turns::new()).count();
        (Pending { envelope, answer, _in_flight, _unconfirmed }, answered)
    }

    /// Forms bundles of callbacks of these sizes until none is left; returns how many are in each.
    fn formed(sizes: &[usize], limit: usize) -> Vec<usize> {
        let (queue, _answers): (VecDeque<_>, Vec<_>) =
            sizes.iter().map(|bytes| pending(*bytes)).unzip();
        form_all(queue, limit)
    }

    fn form_all(mut queue: VecDeque<Pending>, limit: usize) -> Vec<usize> {
        let mut counts = Vec::new();
        let mut carried = None;
        while let Some(first) = carried.take().or_else(|| queue.pop_front()) {
            let (bundle, left_over) = form(Partition::new(0), first, || queue.pop_front(), limit);
            if let Some((bundle, waiting)) = bundle {
                assert_eq!(bundle.callbacks, waiting.len());
                assert!(bundle.payload.len() <= limit);
                counts.push(bundle.callbacks);
            }
            carried = left_over;
        }
        counts
    }

    #[test]
    fn what_has_arrived_shares_a_bundle_within_its_limits() {
        assert_eq!(formed(&[10], 100), [1]);
        assert_eq!(formed(&[10; 10], 100), [10]);
        assert_eq!(formed(&[10; 11], 100), [10, 1]);
        assert_eq!(formed(&[60, 50, 50, 40, 70], 100), [1, 2, 1, 1]);
        let many = bundle::MAX_CALLBACKS + 3;
        assert_eq!(formed(&vec![1; many], 1_000_000), [bundle::MAX_CALLBACKS, 3]);
    }

    #[test]
    fn callbacks_that_nobody_waits_for_are_left_out() {
        let (mut queue, mut answers): (VecDeque<_>, VecDeque<_>) =
            (0..4).map(|_| pending(10)).unzip();
        answers.pop_front();
        answers.pop_back();
        assert_eq!(form_all(std::mem::take(&mut queue), 100), [2]);
        let (queue, answers): (VecDeque<_>, Vec<_>) = (0..4).map(|_| pending(10)).unzip();
        drop(answers);
        assert_eq!(form_all(queue, 100), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_bundled_while_the_broker_is_down_and_closing_ends_all() {
        let (_state, link) = watch::channel(State::Connecting);
        let bundlers = Bundlers::new(link, 2);
        let submit = || {
            let Pending { envelope, _in_flight, .. } = pending(10).0;
            bundlers.submit(Partition::new(1), 2, envelope, _in_flight)
        };
        let mut first = submit().unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(first.try_recv().is_err(), "still waits");
        drop(first);
        // The queue is bounded.
        let (a, b) = (submit().unwrap(), submit().unwrap());
        assert_eq!(submit().unwrap_err(), Refusal::TooMany);
        drop((a, b));
        bundlers.close().await;
        assert_eq!(submit().unwrap_err(), Refusal::ShuttingDown);
    }
}
