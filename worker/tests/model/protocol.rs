//! The steps of the protocol, the faults that may come between any two of them, and the variants.

use stateright::{Model, Property};

use crate::state::{
    At, Consumer, Database, Effect, Faults, Phase, Row, State, Transaction, View, Worker,
};

/// How much an owner prefetches.
const BUFFER: usize = 2;

pub(crate) const ONCE_IN_ORDER: &str = "applied exactly once, in order";
pub(crate) const NEVER_SKIPS: &str = "never skips";
pub(crate) const KNOWS_CHECKPOINT: &str = "an owner knows the checkpoint";
pub(crate) const APPLIED_IN_THE_END: &str = "everything is applied in the end";

/// What the guarded update of a batch compares with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    EpochOwnerAndCheckpoint,
    EpochAndOwner,
    Nothing,
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
    /// Another callback arrives after a restore.
    pub(crate) callback_after_restore: bool,
    /// A stream that loses its tail ends its consumers.
    pub(crate) lost_tail_ends_consumers: bool,
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
    /// The renewal of the leases finds that the partition is no longer ours.
    NoticeLoss(usize),
    /// The consumer is gone, or the message at the checkpoint does not come.
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
    LoseTail(u8),
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
                let row = &state.database.row;
                if row.epoch != view.epoch || row.owner != Some(state.workers[index].process) {
                    actions.push(Action::NoticeLoss(index));
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
                // Those below the one that is let through are dropped, which changes nothing.
                let from = view.next_seq.unwrap_or(0).max(consumer.floor + 1);
                for seq in from..consumer.next.min(state.last_seq() + 1) {
                    actions.push(Action::Redeliver(index, seq));
                }
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
            actions.extend((0..state.last_seq()).map(Action::LoseTail));
        }
    }

    fn consumer(&self, state: &State, index: usize) -> Option<Consumer> {
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

    fn consumer_mut<'a>(&self, state: &'a mut State, index: usize) -> &'a mut Consumer {
        if self.fresh_consumers {
            owned(state, index).consumer.as_mut().unwrap()
        } else {
            &mut state.shared_consumer
        }
    }

    fn passes(&self, row: &Row, worker: &Worker, view: &View) -> bool {
        let epoch = row.epoch == view.epoch;
        let owner = row.owner == Some(worker.process);
        let checkpoint = row.applied_seq == view.applied_seq;
        match self.fence {
            Fence::EpochOwnerAndCheckpoint => epoch && owner && checkpoint,
            Fence::EpochAndOwner => epoch && owner,
            Fence::Nothing => true,
        }
    }

    fn acquire(&self, state: &mut State, index: usize) {
        let row = &mut state.database.row;
        let worker = &mut state.workers[index];
        let free = row.owner.is_none() || row.owner == Some(worker.process) || row.lease_expired;
        if !free {
            worker.phase = Phase::Idle;
            return;
        }
        row.epoch += 1;
        row.owner = Some(worker.process);
        row.lease_expired = false;
        let (applied_seq, applied_msg_id) = match worker.phase {
            Phase::HasRead { applied_seq, applied_msg_id } => (applied_seq, applied_msg_id),
            _ => (row.applied_seq, row.applied_msg_id),
        };
        worker.phase = Phase::Owning(View {
            at: At::Acquired,
            epoch: row.epoch,
            applied_seq,
            applied_msg_id,
            checked: applied_seq == 0,
            next_seq: Some(applied_seq.max(1)),
            buffer: Vec::new(),
            consumer: None,
        });
    }

    fn open_feed(&self, state: &mut State, index: usize) {
        let last = state.last_seq();
        let view = owned(state, index);
        if last < view.applied_seq {
            state.workers[index].phase = Phase::Stopped;
            return;
        }
        view.at = At::Reading;
        if self.fresh_consumers {
            let next = view.applied_seq.max(1);
            view.consumer = Some(Consumer { next, floor: next - 1, ack_in_flight: None });
        } else {
            // A shared consumer has no business with the checkpoint: nothing can be compared.
            view.checked = true;
            view.next_seq = None;
        }
    }

    fn receive(&self, state: &mut State, index: usize, seq: u8) {
        let msg_id = state.msg_id(seq).unwrap();
        let worker = &mut state.workers[index];
        let Phase::Owning(view) = &mut worker.phase else { unreachable!("only owners read") };
        let expected = view.next_seq.unwrap_or_else(|| seq.max(view.applied_seq + 1));
        if seq < expected {
            return;
        }
        if seq > expected {
            worker.phase = Phase::Idle;
            return;
        }
        view.next_seq = Some(seq + 1);
        if view.checked {
            view.buffer.push(Effect { seq, msg_id });
        } else if msg_id == view.applied_msg_id {
            view.checked = true;
        } else {
            worker.phase = Phase::Stopped;
        }
    }

    fn begin(&self, state: &mut State, index: usize) {
        let worker = &state.workers[index];
        let Phase::Owning(view) = &worker.phase else { unreachable!("only owners apply") };
        if !self.passes(&state.database.row, worker, view) {
            state.workers[index].phase = Phase::Idle;
            return;
        }
        let mut leaves = state.database.clone();
        let last = view.buffer[view.buffer.len() - 1];
        leaves.row.applied_seq = last.seq;
        leaves.row.applied_msg_id = last.msg_id;
        leaves.row.lease_expired = false;
        leaves.effects.extend(&view.buffer);
        state.transaction =
            Some(Transaction { process: worker.process, leaves, committing: false });
        owned(state, index).at = At::InTransaction;
    }

    fn take_answer(&self, state: &mut State, index: usize, committed: bool) {
        if !committed {
            state.workers[index].phase = Phase::Idle;
            return;
        }
        let view = owned(state, index);
        let last = view.buffer[view.buffer.len() - 1];
        view.applied_seq = last.seq;
        view.applied_msg_id = last.msg_id;
        view.buffer.clear();
        view.at = At::Reading;
        if self.consumer(state, index).is_some() {
            self.consumer_mut(state, index).ack_in_flight = Some(last.seq);
        }
    }

    fn lose_tail(&self, state: &mut State, keep: u8) {
        state.stream.truncate(usize::from(keep));
        state.to_publish += 2;
        for worker in &mut state.workers {
            let Phase::Owning(view) = &mut worker.phase else { continue };
            if self.lost_tail_ends_consumers {
                view.consumer = None;
            } else if let Some(consumer) = &mut view.consumer {
                consumer.next = consumer.next.min(keep + 1);
            }
        }
        state.shared_consumer.next = state.shared_consumer.next.min(keep + 1);
    }

    fn do_step(&self, state: &mut State, action: Action) {
        match action {
            Action::Restart(index) => {
                state.workers[index].process = state.next_process;
                state.workers[index].phase = Phase::Idle;
                state.next_process += 1;
            }
            Action::Resume(index) => state.workers[index].paused = false,
            Action::ReadCheckpoint(index) => {
                let Row { applied_seq, applied_msg_id, .. } = state.database.row;
                state.workers[index].phase = Phase::HasRead { applied_seq, applied_msg_id };
            }
            Action::Acquire(index) => self.acquire(state, index),
            Action::OpenFeed(index) => self.open_feed(state, index),
            Action::NoticeLoss(index) | Action::NoticeTrouble(index) | Action::LookAgain(index) => {
                state.workers[index].phase = Phase::Idle;
            }
            Action::Begin(index) => self.begin(state, index),
            Action::Commit(index) => {
                let process = state.workers[index].process;
                match &mut state.transaction {
                    Some(open) if open.process == process => {
                        open.committing = true;
                        owned(state, index).at = At::Committing;
                    }
                    _ => state.workers[index].phase = Phase::Idle,
                }
            }
            Action::TakeAnswer(index) => {
                let At::Answered { committed } = owned(state, index).at else { return };
                self.take_answer(state, index, committed);
            }
            Action::Publish => {
                state.stream.push(state.next_msg_id);
                state.next_msg_id += 1;
                state.to_publish -= 1;
            }
            Action::Deliver(index) => {
                let consumer = self.consumer_mut(state, index);
                let seq = consumer.next;
                consumer.next += 1;
                self.receive(state, index, seq);
            }
            Action::Redeliver(index, seq) => self.receive(state, index, seq),
            Action::AckArrives(index) => {
                let consumer = self.consumer_mut(state, index);
                let acked = consumer.ack_in_flight.take().unwrap_or_default();
                consumer.floor = consumer.floor.max(acked);
            }
            Action::Committed => {
                if let Some(open) = state.transaction.take() {
                    state.database = open.leaves;
                    answer(state, open.process, true);
                }
            }
            Action::Abandon => state.transaction = None,
            Action::LeaseExpires => state.database.row.lease_expired = true,
            Action::LeaseRenewed => state.database.row.lease_expired = false,
            fault => self.do_fault(state, fault),
        }
    }

    fn do_fault(&self, state: &mut State, fault: Action) {
        state.faults.total -= 1;
        let left = &mut state.faults;
        match fault {
            Action::Crash(index) => {
                left.crashes -= 1;
                let worker = &mut state.workers[index];
                (worker.phase, worker.paused) = (Phase::Down, false);
            }
            Action::Pause(index) => {
                left.pauses -= 1;
                state.workers[index].paused = true;
            }
            Action::Release(index) => {
                left.releases -= 1;
                let (process, epoch) = (state.workers[index].process, owned(state, index).epoch);
                let row = &mut state.database.row;
                if row.owner == Some(process) && row.epoch == epoch {
                    row.owner = None;
                }
                state.workers[index].phase = Phase::Idle;
            }
            Action::LoseDelivery(index) => {
                left.deliveries -= 1;
                self.consumer_mut(state, index).next += 1;
            }
            Action::LoseAck(index) => {
                left.deliveries -= 1;
                self.consumer_mut(state, index).ack_in_flight = None;
            }
            Action::LoseConsumer(index) => {
                left.deliveries -= 1;
                owned(state, index).consumer = None;
            }
            Action::CommitFails => {
                left.commits -= 1;
                if let Some(open) = state.transaction.take() {
                    answer(state, open.process, false);
                }
            }
            Action::LoseAnswer(index) | Action::GiveUp(index) => {
                left.commits -= 1;
                state.workers[index].phase = Phase::Idle;
            }
            // The restore is the fault.
            Action::BackUp => {
                state.faults.total += 1;
                state.backup = Some(state.database.clone());
            }
            Action::Restore => {
                left.restores -= 1;
                if let Some(open) = state.transaction.take() {
                    answer(state, open.process, false);
                }
                if let Some(backup) = state.backup.take() {
                    state.database = backup;
                }
                // A backup is older than any lease.
                state.database.row.lease_expired = state.database.row.owner.is_some();
                state.to_publish += u8::from(self.callback_after_restore);
            }
            Action::LoseTail(keep) => {
                left.lost_tails -= 1;
                self.lose_tail(state, keep);
            }
            step => unreachable!("{step:?} is not a fault"),
        }
    }
}

fn owned(state: &mut State, index: usize) -> &mut View {
    match &mut state.workers[index].phase {
        Phase::Owning(view) => view,
        other => unreachable!("worker {index} owns nothing: {other:?}"),
    }
}

/// Answers the COMMIT of a process, if it still waits.
fn answer(state: &mut State, process: u8, committed: bool) {
    for worker in &mut state.workers {
        if let Phase::Owning(view) = &mut worker.phase
            && worker.process == process
            && view.at == At::Committing
        {
            view.at = At::Answered { committed };
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
            faults: self.faults.clone(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.steps(state, actions);
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
