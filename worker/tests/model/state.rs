//! What the database, the broker and the workers hold, and what must be true of it.

/// A sequence of the stream, from 1; 0 is before the first message.
pub(crate) type Seq = u8;
/// What a `Nats-Msg-Id` stands for: which message it is, whatever its sequence.
pub(crate) type MsgId = u8;
/// The random id of a process. Two processes never have the same.
pub(crate) type ProcessId = u8;

/// The row of the partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) epoch: u8,
    pub(crate) owner: Option<ProcessId>,
    pub(crate) lease_expired: bool,
    pub(crate) applied_seq: Seq,
    pub(crate) applied_msg_id: MsgId,
}

/// The message that took effect, and the sequence it was read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Effect {
    pub(crate) seq: Seq,
    pub(crate) msg_id: MsgId,
}

/// What is committed. Effects are part of it, so a restore takes them back with the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) row: Row,
    pub(crate) effects: Vec<Effect>,
}

/// The one transaction that is past its fence and so holds the row's lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    pub(crate) process: ProcessId,
    pub(crate) leaves: Database,
    /// Its COMMIT is sent: the database decides, whatever becomes of the worker.
    pub(crate) committing: bool,
}

/// A consumer of the broker with `AckPolicy::All`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Consumer {
    /// The next message to be delivered for the first time.
    pub(crate) next: Seq,
    /// What is acked. Messages between here and `next` may be delivered again, in any order.
    pub(crate) floor: Seq,
    pub(crate) ack_in_flight: Option<Seq>,
}

impl Consumer {
    pub(crate) fn from(start: Seq) -> Self {
        Self { next: start, floor: start - 1, ack_in_flight: None }
    }
}

/// What becomes of the consumers of a stream that loses its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// They are gone.
    Gone,
    /// They are made again, under their names, and start where they once started.
    Remade,
    /// They go on where the stream now ends.
    Rewound,
    /// They go on as if nothing had been lost, and so leave out what comes in its place.
    Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    /// Acquired, without a consumer yet.
    Acquired,
    Reading,
    InTransaction,
    Committing,
    /// The answer to the COMMIT is on its way.
    Answered {
        committed: bool,
    },
}

/// What a process believes from an acquisition on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) at: At,
    pub(crate) epoch: u8,
    pub(crate) applied_seq: Seq,
    pub(crate) applied_msg_id: MsgId,
    /// Whether the message at the checkpoint was seen to be the one that was applied.
    pub(crate) checked: bool,
    /// The only sequence that is let through; none while whatever comes first is.
    pub(crate) next_seq: Option<Seq>,
    /// What was let through.
    pub(crate) read: Vec<Effect>,
    /// What of it is not applied yet.
    pub(crate) buffer: Vec<Effect>,
    pub(crate) consumer: Option<Consumer>,
    /// The connection that the consumer was made on is lost; there is another one.
    pub(crate) reconnected: bool,
    /// A renewal that has read the checkpoint, and whose answer is on its way.
    pub(crate) renewal: Option<Seq>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Down,
    Idle,
    /// Only where the checkpoint is read apart: it is read, and nothing is acquired yet.
    HasRead {
        applied_seq: Seq,
        applied_msg_id: MsgId,
    },
    Owning(View),
    /// It has said that the stream is not the one that was applied.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) process: ProcessId,
    pub(crate) paused: bool,
    pub(crate) phase: Phase,
}

impl Worker {
    pub(crate) fn is_awake(&self) -> bool {
        !self.paused && self.phase != Phase::Down
    }
}

/// How many faults of each kind are still to come, so that every run ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Of all kinds together.
    pub(crate) total: u8,
    pub(crate) crashes: u8,
    pub(crate) pauses: u8,
    pub(crate) releases: u8,
    /// Commits that fail, or whose answer is lost or not waited for.
    pub(crate) commits: u8,
    /// Deliveries that are lost, and consumers that fail.
    pub(crate) deliveries: u8,
    pub(crate) restores: u8,
    pub(crate) lost_tails: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) backup: Option<Database>,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) stream: Vec<MsgId>,
    /// The durable consumer of the variant without a fresh one for each epoch.
    pub(crate) shared_consumer: Consumer,
    pub(crate) workers: [Worker; 2],
    pub(crate) next_process: ProcessId,
    pub(crate) next_msg_id: MsgId,
    /// Callbacks that are still to arrive.
    pub(crate) to_publish: u8,
    /// Somebody began anew although its row was as it had left it.
    pub(crate) false_alarm: bool,
    pub(crate) faults: Faults,
}

impl State {
    pub(crate) fn msg_id(&self, seq: Seq) -> Option<MsgId> {
        self.stream.get(usize::from(seq).checked_sub(1)?).copied()
    }

    pub(crate) fn last_seq(&self) -> Seq {
        u8::try_from(self.stream.len()).unwrap()
    }

    /// Whether the message at a checkpoint is, or would be, the one that was applied.
    pub(crate) fn holds(&self, seq: Seq, msg_id: MsgId) -> bool {
        seq == 0 || self.msg_id(seq) == Some(msg_id)
    }

    /// Whether a process that is awake has this id, and so keeps renewing its leases.
    pub(crate) fn is_process_awake(&self, process: ProcessId) -> bool {
        self.workers.iter().any(|worker| worker.process == process && worker.is_awake())
    }

    /// The effects are those of the sequences 1, 2, 3 …, and the checkpoint is the last of them.
    pub(crate) fn is_applied_once_in_order(&self) -> bool {
        let Database { row, effects } = &self.database;
        usize::from(row.applied_seq) == effects.len()
            && effects.iter().zip(1..).all(|(effect, seq)| effect.seq == seq)
    }

    /// No message of the stream is without effect while a later one has taken effect.
    pub(crate) fn is_without_skips(&self) -> bool {
        let took_effect =
            |msg_id: &MsgId| self.database.effects.iter().any(|effect| effect.msg_id == *msg_id);
        self.stream.is_sorted_by_key(|msg_id| !took_effect(msg_id))
    }

    /// Whoever owns the partition by its row knows the row's checkpoint, unless its own commit is
    /// on its way. A restore may take an owner back in its own epoch, so it is left out there.
    pub(crate) fn do_owners_know_the_checkpoint(&self) -> bool {
        let row = &self.database.row;
        self.workers.iter().all(|worker| match &worker.phase {
            Phase::Owning(view) if row.owner == Some(worker.process) && row.epoch == view.epoch => {
                matches!(view.at, At::Committing | At::Answered { .. })
                    || view.applied_seq == row.applied_seq
            }
            _ => true,
        })
    }

    /// All of the stream is applied; or, where the stream no longer is the one that was applied, a
    /// worker has stopped and said so.
    pub(crate) fn is_settled(&self) -> bool {
        let row = &self.database.row;
        if self.holds(row.applied_seq, row.applied_msg_id) {
            row.applied_seq == self.last_seq() && self.to_publish == 0
        } else {
            self.workers.iter().any(|worker| worker.phase == Phase::Stopped)
        }
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = (ProcessId, &View)> {
        self.workers.iter().filter_map(|worker| match &worker.phase {
            Phase::Owning(view) => Some((worker.process, view)),
            _ => None,
        })
    }
}
