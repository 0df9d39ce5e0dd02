//! When each step of the protocol can come, the faults between any two of them, and the variants.

use stateright::{Model, Property};

use crate::state::{At, Consumer, Database, Fate, Faults, Phase, Row, State, View, Worker};

/// How much an owner prefetches.
const BUFFER: usize = 2;

pub(crate) const ONCE_IN_ORDER: &str = "applied exactly once, in order";
pub(crate) const NEVER_SKIPS: &str = "never skips";
pub(crate) const KNOWS_CHECKPOINT: &str = "an owner knows the checkpoint";
pub(crate) const NO_FALSE_ALARMS: &str = "no false alarms";
pub(crate) const APPLIED_IN_THE_END: &str = "everything is applied in the end";

/// What the guarded update of a batch compares with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    EpochOwnerAndCheckpoint,
    EpochAndOwner,
    Nothing,
}

/// What an owner makes of a renewal that began before its last commit was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LateRenewals {
    /// There are none: a renewal is one step.
    None,
    Ignored,
    Believed,
}

/// The protocol, its variants, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) fence: Fence,
    /// Each epoch reads through its own consumer, which starts at the checkpoint. Without this all
    /// share a durable one, and trust its ack floor and its order.
    pub(crate) fresh_consumers: bool,
    /// The statement that acquires also reads the checkpoint. Without this it is read before.
    pub(crate) acquiring_reads: bool,
    /// The renewal of the leases brings the checkpoints too, and an owner compares its own.
    pub(crate) renewal_brings_checkpoint: bool,
    pub(crate) late_renewals: LateRenewals,
    /// A feed ends with the connection that it was opened on.
    pub(crate) reconnects_are_anomalies: bool,
    /// A message below the one that is let through must be one that was read.
    pub(crate) compares_redelivered: bool,
    /// The server that loses the tail of a stream is the one that the workers are connected to.
    pub(crate) lost_tail_disconnects: bool,
    /// What may become of the consumers of such a stream.
    pub(crate) fates: &'static [Fate],
    pub(crate) messages: u8,
    pub(crate) faults: Faults,
}

/// Workers are named by their index.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    // Steps of the workers.
    Restart(usize),
    Resume(usize),
    ReadCheckpoint(usize),
    Acquire(usize),
    /// Identifies the stream and makes the consumer.
    OpenFeed(usize),
    /// The renewal of the leases finds that the row is not as its owner left it.
    NoticeLoss(usize),
    /// The same in two steps.
    RenewalReads(usize),
    RenewalArrives(usize),
    /// The consumer or the connection is gone, or the message at the checkpoint does not come.
    NoticeTrouble(usize),
    Begin(usize),
    Commit(usize),
    TakeAnswer(usize),
    LookAgain(usize),
    // Steps of the broker and the database, and of time.
    Publish,
    Deliver(usize),
    Redeliver(usize, u8),
    AckArrives(usize),
    Committed,
    /// The database ends a transaction whose worker is gone or sleeps.
    Abandon,
    LeaseExpires,
    LeaseRenewed,
    // Faults.
    Crash(usize),
    Pause(usize),
    Release(usize),
    LoseDelivery(usize),
    LoseAck(usize),
    LoseConsumer(usize),
    CommitFails,
    LoseAnswer(usize),
    /// The worker no longer waits for the answer to its COMMIT, which may still happen.
    GiveUp(usize),
    BackUp,
    Restore,
    LoseTail(u8, Fate),
}

impl Protocol {
    /// What happens sooner or later if no fault comes between. Every such run ends, because a
    /// worker moves on within its epoch, and only faults make new epochs necessary.
    fn steps(&self, state: &State, actions: &mut Vec<Action>) {
        let row = &state.database.row;
        let locked = state.transaction.is_some();
        for (index, worker) in state.workers.iter().enumerate() {
            // The workers are alike, so the first to acquire is called 0.
            if row.epoch == 0 && index > 0 {
                continue;
            }
            if worker.paused {
                actions.push(Action::Resume(index));
                continue;
            }
            let free =
                row.owner.is_none() || row.owner == Some(worker.process) || row.lease_expired;
            match &worker.phase {
                Phase::Down => actions.push(Action::Restart(index)),
                Phase::Idle if free && !self.acquiring_reads => {
                    actions.push(Action::ReadCheckpoint(index));
                }
                // It waits for the transaction that holds the row.
                Phase::Idle if free && !locked => actions.push(Action::Acquire(index)),
                Phase::HasRead { .. } if !locked => actions.push(Action::Acquire(index)),
                Phase::Idle | Phase::HasRead { .. } => {}
                // Acquiring it only to stop once more would change nothing but the epoch.
                Phase::Stopped if state.holds(row.applied_seq, row.applied_msg_id) => {
                    actions.push(Action::LookAgain(index));
                }
                Phase::Stopped => {}
                Phase::Owning(view) => self.owner_steps(state, index, view, actions),
            }
        }
        for (index, consumer) in self.consumers(state) {
            if consumer.ack_in_flight.is_some() {
                actions.push(Action::AckArrives(index));
            }
        }
        if state.to_publish > 0 {
            actions.push(Action::Publish);
        }
        if let Some(transaction) = &state.transaction {
            let waits_for_owner = state.workers.iter().any(|worker| {
                let in_transaction =
                    matches!(&worker.phase, Phase::Owning(view) if view.at == At::InTransaction);
                worker.process == transaction.process && in_transaction && !worker.paused
            });
            if transaction.committing {
                actions.push(Action::Committed);
            } else if !waits_for_owner {
                actions.push(Action::Abandon);
            }
        }
        if let Some(owner) = row.owner {
            match (state.is_process_awake(owner), row.lease_expired) {
                (false, false) => actions.push(Action::LeaseExpires),
                (true, true) if !locked => actions.push(Action::LeaseRenewed),
                _ => {}
            }
        }
    }

    fn owner_steps(&self, state: &State, index: usize, view: &View, actions: &mut Vec<Action>) {
        match view.at {
            At::Acquired => actions.push(Action::OpenFeed(index)),
            At::InTransaction => actions.push(Action::Commit(index)),
            At::Committing => {}
            At::Answered { .. } => actions.push(Action::TakeAnswer(index)),
            At::Reading => {
                if !self.is_as_left(state, index, view) {
                    actions.push(Action::NoticeLoss(index));
                }
                if view.reconnected && self.reconnects_are_anomalies {
                    actions.push(Action::NoticeTrouble(index));
                }
                if !view.buffer.is_empty() && state.transaction.is_none() {
                    actions.push(Action::Begin(index));
                }
                let Some(consumer) = self.consumer(state, index) else {
                    actions.push(Action::NoticeTrouble(index));
                    return;
                };
                if !view.checked && state.last_seq() < view.applied_seq {
                    actions.push(Action::NoticeTrouble(index));
                }
                if view.buffer.len() >= BUFFER {
                    return;
                }
                if consumer.next <= state.last_seq() {
                    actions.push(Action::Deliver(index));
                }
                // Those that were read already are dropped, which changes nothing.
                for seq in consumer.floor + 1..consumer.next.min(state.last_seq() + 1) {
                    if view.next_seq.is_none_or(|next| next <= seq)
                        || self.contradicts(state, view, seq)
                    {
                        actions.push(Action::Redeliver(index, seq));
                    }
                }
            }
        }
    }

    /// Whether a renewal finds the row of an owner as that owner left it.
    pub(crate) fn is_as_left(&self, state: &State, index: usize, view: &View) -> bool {
        let row = &state.database.row;
        row.epoch == view.epoch
            && row.owner == Some(state.workers[index].process)
            && (!self.renewal_brings_checkpoint || row.applied_seq == view.applied_seq)
    }

    /// Whether a message below the one that is let through is not the one that was read.
    pub(crate) fn contradicts(&self, state: &State, view: &View, seq: u8) -> bool {
        self.compares_redelivered
            && self.fresh_consumers
            && !view.read.iter().any(|read| read.seq == seq && state.holds(seq, read.msg_id))
    }

    /// Steps that come again and again, so that a run does not end with them.
    fn renewals(&self, state: &State, actions: &mut Vec<Action>) {
        if self.late_renewals == LateRenewals::None {
            return;
        }
        for (index, worker) in state.workers.iter().enumerate() {
            let Phase::Owning(view) = &worker.phase else { continue };
            let row = &state.database.row;
            let ours = row.epoch == view.epoch && row.owner == Some(worker.process);
            // It waits for the transaction that holds the row.
            if view.renewal.is_none() && !worker.paused && ours && state.transaction.is_none() {
                actions.push(Action::RenewalReads(index));
            }
            if view.renewal.is_some() && !worker.paused && view.at == At::Reading {
                actions.push(Action::RenewalArrives(index));
            }
        }
    }

    fn possible_faults(&self, state: &State, actions: &mut Vec<Action>) {
        let left = &state.faults;
        // Nothing can be lost, nor gone back to, before something is acquired.
        if left.total == 0 || state.database.row.epoch == 0 {
            return;
        }
        for (index, worker) in state.workers.iter().enumerate() {
            if left.crashes > 0 && worker.phase != Phase::Down {
                actions.push(Action::Crash(index));
            }
            let busy = matches!(worker.phase, Phase::Owning(_) | Phase::HasRead { .. });
            if worker.paused || !busy {
                continue;
            }
            if left.pauses > 0 {
                actions.push(Action::Pause(index));
            }
            let Phase::Owning(view) = &worker.phase else { continue };
            match view.at {
                At::Reading => {
                    if left.releases > 0 && state.transaction.is_none() {
                        actions.push(Action::Release(index));
                    }
                    if let Some(consumer) = self.consumer(state, index)
                        && left.deliveries > 0
                    {
                        actions.push(Action::LoseConsumer(index));
                        if consumer.next <= state.last_seq() {
                            actions.push(Action::LoseDelivery(index));
                        }
                    }
                }
                At::Committing if left.commits > 0 => actions.push(Action::GiveUp(index)),
                At::Answered { .. } if left.commits > 0 => actions.push(Action::LoseAnswer(index)),
                _ => {}
            }
        }
        for (index, consumer) in self.consumers(state) {
            if left.deliveries > 0 && consumer.ack_in_flight.is_some() {
                actions.push(Action::LoseAck(index));
            }
        }
        if left.commits > 0 && state.transaction.as_ref().is_some_and(|open| open.committing) {
            actions.push(Action::CommitFails);
        }
        if left.restores > 0 {
            actions.push(if state.backup.is_some() { Action::Restore } else { Action::BackUp });
        }
        if left.lost_tails > 0 {
            for fate in self.fates {
                actions.extend((0..state.last_seq()).map(|keep| Action::LoseTail(keep, *fate)));
            }
        }
    }

    pub(crate) fn consumer(&self, state: &State, index: usize) -> Option<Consumer> {
        match &state.workers[index].phase {
            Phase::Owning(view) if self.fresh_consumers => view.consumer,
            Phase::Owning(_) => Some(state.shared_consumer),
            _ => None,
        }
    }

    /// The consumers with an owner to index them by; a shared one is named by 0.
    fn consumers(&self, state: &State) -> Vec<(usize, Consumer)> {
        if self.fresh_consumers {
            (0..state.workers.len())
                .filter_map(|at| Some((at, self.consumer(state, at)?)))
                .collect()
        } else {
            vec![(0, state.shared_consumer)]
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let row =
            Row { epoch: 0, owner: None, lease_expired: false, applied_seq: 0, applied_msg_id: 0 };
        let worker = |process| Worker { process, paused: false, phase: Phase::Idle };
        vec![State {
            database: Database { row, effects: Vec::new() },
            backup: None,
            transaction: None,
            stream: (1..=self.messages).collect(),
            shared_consumer: Consumer { next: 1, floor: 0, ack_in_flight: None },
            workers: [worker(1), worker(2)],
            next_process: 3,
            next_msg_id: self.messages + 1,
            to_publish: 0,
            false_alarm: false,
            faults: self.faults.clone(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.steps(state, actions);
        self.renewals(state, actions);
        self.possible_faults(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.do_step(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE_IN_ORDER, |_, state: &State| state.is_applied_once_in_order()),
            Property::always(NEVER_SKIPS, |_, state: &State| state.is_without_skips()),
            Property::always(KNOWS_CHECKPOINT, |model: &Self, state: &State| {
                model.faults.restores > 0 || state.do_owners_know_the_checkpoint()
            }),
            Property::always(NO_FALSE_ALARMS, |_, state: &State| !state.false_alarm),
            // Not an `eventually`: that would be judged only where no fault is left to come.
            Property::always(APPLIED_IN_THE_END, |model: &Self, state: &State| {
                if state.is_settled() {
                    return true;
                }
                let mut actions = Vec::new();
                model.steps(state, &mut actions);
                !actions.is_empty()
            }),
            Property::sometimes("all is applied", |_, state: &State| {
                state.is_settled() && state.database.row.applied_seq == state.last_seq()
            }),
            Property::sometimes("two believe that they own the partition", |_, state: &State| {
                state.views().count() == 2
            }),
        ]
    }
}
