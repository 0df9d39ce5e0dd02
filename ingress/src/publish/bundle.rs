//! A bundle: several callbacks of one partition in one message.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use shared::bundle::{self, Metadata};
use shared::partition::Partition;
use shared::trace::TraceContext;
use tokio::sync::oneshot;

use super::limiter::Unconfirmed;
use crate::answer::Refusal;
use crate::metrics::InFlight;
use crate::signature::Verified;

/// A verified callback, encoded for a bundle. Only a [`Verified`] becomes one.
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
        let new = Metadata::new(job, verified.key(), received_ms);
        let metadata = Metadata { event_id, traceparent, ..new };
        Self(bundle::encode(&metadata, verified.body()))
    }
}

/// A callback that waits for its confirmation.
#[derive(Debug)]
pub(super) struct Pending {
    envelope: Envelope,
    /// Closed when the sender no longer waits.
    pub(super) answer: oneshot::Sender<Result<Stored, Refusal>>,
    /// Its memory counts until it is dropped, even if its sender is gone.
    _in_flight: InFlight,
    _unconfirmed: Unconfirmed,
}

impl Pending {
    /// A callback, and the receiver of its answer.
    pub(super) fn new(
        envelope: Envelope,
        in_flight: InFlight,
        unconfirmed: Unconfirmed,
    ) -> (Self, oneshot::Receiver<Result<Stored, Refusal>>) {
        let (answer, answered) = oneshot::channel();
        let pending = Self { envelope, answer, _in_flight: in_flight, _unconfirmed: unconfirmed };
        (pending, answered)
    }
}

/// The position of a confirmed callback in its partition's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The bundle's sequence.
    pub(crate) seq: u64,
    /// The index in the bundle.
    pub(crate) idx: usize,
}

/// A bundle: the same bytes under the same id, however often they are sent.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) id: String,
    pub(super) partition: Partition,
    pub(super) payload: Bytes,
    pub(super) callbacks: usize,
}

impl Bundle {
    pub(super) fn new(partition: Partition, payload: Bytes, callbacks: usize) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { id, partition, payload, callbacks }
    }
}

/// The callbacks of a bundle, in its order.
pub(super) type Waiting = VecDeque<Pending>;

/// Makes a bundle of the callbacks that have arrived, except those that nobody waits for any more.
/// A callback that does not fit begins the next bundle.
pub(super) fn form(
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

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use shared::eviction::Slots;

    use super::super::limiter::PublishLimiter;
    use shared::partition::Layout;

    use super::*;

    pub(in crate::publish) fn envelope(bytes: usize) -> Envelope {
        Envelope(Bytes::from(vec![b'x'; bytes]))
    }

    pub(in crate::publish) fn in_flight() -> InFlight {
        InFlight::new(Slots::new(1).try_acquire().unwrap())
    }

    fn pending(bytes: usize) -> (Pending, oneshot::Receiver<Result<Stored, Refusal>>) {
        let unconfirmed = PublishLimiter::new(1024).count(&Arc::default());
        Pending::new(envelope(bytes), in_flight(), unconfirmed)
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
            let (bundle, left_over) =
                form(Layout::new(1, 1).first(), first, || queue.pop_front(), limit);
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
}
