//! Publishes callbacks in bundles, with a task for each partition.
//!
//! While one bundle of a partition is in flight, the callbacks that arrive form the next one. No
//! timer delays a bundle, so a lone callback leaves at once. A partition never has more than one
//! bundle in flight.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use shared::partition::{Layout, Partition};
use shared::turns::Turn;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bundle::{Bundle, Envelope, Pending, Stored, Waiting, form};
use super::confirm::{Confirmed, publish};
use super::limiter::PublishLimiter;
use super::ticks::Hindrance;
use crate::answer::Refusal;
use crate::link::{State, up};
use crate::metrics::InFlight;

/// The queues of all partitions.
#[derive(Debug)]
pub(crate) struct Bundlers {
    link: watch::Receiver<State>,
    capacity: usize,
    queues: Mutex<Option<Arc<Queues>>>,
    limiter: Arc<PublishLimiter>,
    closing: CancellationToken,
    failed: CancellationToken,
    tasks: TaskTracker,
}

/// The queues of one generation.
#[derive(Debug)]
struct Queues {
    layout: Layout,
    of_partition: Vec<Queue>,
}

/// The queue of a partition.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<Pending>,
    /// How many callbacks of the partition are unconfirmed.
    unconfirmed: Arc<AtomicUsize>,
    hindrance: Hindrance,
}

impl Queues {
    /// The queue of a partition; none if it is of another generation.
    fn of(&self, partition: Partition) -> Option<&Queue> {
        let of_partition = self.of_partition.get(usize::from(partition.number()));
        of_partition.filter(|_| self.layout == partition.layout())
    }
}

impl Bundlers {
    /// Bundlers that publish over `link`, up to `capacity` callbacks at a time.
    pub(crate) fn new(link: watch::Receiver<State>, capacity: usize) -> Self {
        let limiter = Arc::new(PublishLimiter::new(capacity));
        let queues = Mutex::default();
        let (closing, failed) = (CancellationToken::new(), CancellationToken::new());
        Self { link, capacity, queues, limiter, closing, failed, tasks: TaskTracker::new() }
    }

    /// Queues a callback, and returns a receiver of its outcome. Drop the receiver to stop waiting.
    ///
    /// # Errors
    /// The [`Refusal`] to answer: the partition has its part of what can wait, or ingress ends.
    pub(crate) fn submit(
        &self,
        partition: Partition,
        envelope: Envelope,
        in_flight: InFlight,
    ) -> Result<oneshot::Receiver<Result<Stored, Refusal>>, Refusal> {
        let queues = self.queues(partition.layout());
        // The request may have been admitted for streams that have been closed since.
        let queue = queues.of(partition).ok_or(Refusal::BrokerDown)?;
        if queues.of_partition.len() > 1 && !self.limiter.has_room(&queue.unconfirmed) {
            return Err(Refusal::TooMany);
        }
        let unconfirmed = self.limiter.count(&queue.unconfirmed);
        let (pending, answered) = Pending::new(envelope, in_flight, unconfirmed);
        queue.sender.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::TooMany,
            mpsc::error::TrySendError::Closed(_) => Refusal::ShuttingDown,
        })?;
        Ok(answered)
    }

    /// Whether the last bundle for a partition was not confirmed.
    pub(super) fn is_hindered(&self, partition: Partition) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.as_ref().and_then(|queues| queues.of(partition));
        queue.is_some_and(|queue| queue.hindrance.lasts())
    }

    /// Returns when a task of a partition has panicked: nobody would publish its callbacks.
    pub(crate) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Takes no more callbacks, and returns when the queued ones are published or abandoned.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The queues of this generation. Those of an earlier one take nothing any more, and end when what
    /// they hold is answered.
    fn queues(&self, layout: Layout) -> Arc<Queues> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match &*queues {
            Some(queues) if queues.layout >= layout => Arc::clone(queues),
            _ => {
                let of_partition = layout.all().map(|partition| self.start(partition)).collect();
                Arc::clone(queues.insert(Arc::new(Queues { layout, of_partition })))
            }
        }
    }

    fn start(&self, partition: Partition) -> Queue {
        let (sender, queue) = mpsc::channel(self.capacity);
        let hindrance = Hindrance::default();
        let publisher = Publisher {
            partition,
            link: self.link.clone(),
            limiter: Arc::clone(&self.limiter),
            hindrance: hindrance.clone(),
            closing: self.closing.clone(),
        };
        let alarm = self.failed.clone().drop_guard();
        self.tasks.spawn(async move {
            publisher.run(queue).await;
            alarm.disarm();
        });
        Queue { sender, unconfirmed: Arc::default(), hindrance }
    }
}

/// What publishes the callbacks of a partition.
struct Publisher {
    partition: Partition,
    link: watch::Receiver<State>,
    limiter: Arc<PublishLimiter>,
    hindrance: Hindrance,
    closing: CancellationToken,
}

impl Publisher {
    async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        let limiter = Arc::clone(&self.limiter);
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(first) => Some(first),
                None => tokio::select! {
                    first = queue.recv() => first,
                    () = self.closing.cancelled(), if !queue.is_closed() => {
                        queue.close();
                        continue;
                    }
                },
            };
            let Some(mut first) = first else { return };
            // The size limit is the connection's, so a bundle is formed only when there is one.
            let limit = tokio::select! {
                biased;
                () = first.answer.closed() => continue,
                up = up(&mut self.link) => match up {
                    Some(up) => up.bundle_limit,
                    None => return,
                },
            };
            let permit = limiter.acquire().await;
            let arrived = || queue.try_recv().ok();
            let (bundle, left_over) = form(self.partition, first, arrived, limit);
            carried = left_over;
            let Some((bundle, waiting)) = bundle else { continue };
            self.settle(bundle, waiting, permit).await;
        }
    }

    /// Publishes a bundle, as long as anyone waits for it, and answers them.
    async fn settle(&mut self, bundle: Bundle, mut waiting: Waiting, permit: Turn<'_>) {
        let outcome = {
            let nobody_waits = async {
                for pending in &mut waiting {
                    pending.answer.closed().await;
                }
            };
            tokio::select! {
                biased;
                outcome = publish(&bundle, &mut self.link, &self.hindrance) => outcome,
                never = permit.expire() => match never {},
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
                Confirmed::Moved => Err(Refusal::NotConfirmed),
            };
            // A sender that has just stopped waiting gets no answer; the callback takes effect all the
            // same.
            let _ = pending.answer.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bundle::tests::{envelope, in_flight};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_bundled_while_the_broker_is_down_and_closing_ends_all() {
        let (_state, link) = watch::channel(State::Connecting);
        let bundlers = Bundlers::new(link, 2);
        let submit = || bundlers.submit(Layout::new(1, 1).first(), envelope(10), in_flight());
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
