//! What each step and each fault does.

use crate::protocol::{Action, Fence, LateRenewals, Protocol};
use crate::state::{At, Consumer, Effect, Fate, Phase, Row, State, Transaction, View, Worker};

impl Protocol {
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
            read: Vec::new(),
            buffer: Vec::new(),
            consumer: None,
            reconnected: false,
            renewal: None,
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
        view.reconnected = false;
        if self.fresh_consumers {
            view.consumer = Some(Consumer::from(view.applied_seq.max(1)));
        } else {
            // A shared consumer has no business with the checkpoint: nothing can be compared.
            view.checked = true;
            view.next_seq = None;
        }
    }

    fn receive(&self, state: &mut State, index: usize, seq: u8) {
        let msg_id = state.msg_id(seq).unwrap();
        let Phase::Owning(view) = &state.workers[index].phase else {
            unreachable!("only owners read")
        };
        let expected = view.next_seq.unwrap_or_else(|| seq.max(view.applied_seq + 1));
        let is_anomaly = seq > expected
            || (seq < expected && self.contradicts(state, view, seq))
            || (view.reconnected && self.reconnects_are_anomalies);
        let worker = &mut state.workers[index];
        let Phase::Owning(view) = &mut worker.phase else { return };
        if is_anomaly {
            worker.phase = Phase::Idle;
            return;
        }
        if seq < expected {
            return;
        }
        view.next_seq = Some(seq + 1);
        view.read.push(Effect { seq, msg_id });
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
        if self.late_renewals == LateRenewals::Ignored {
            view.renewal = None;
        }
        if self.consumer(state, index).is_some() {
            self.consumer_mut(state, index).ack_in_flight = Some(last.seq);
        }
    }

    /// A renewal says what the checkpoint was when it read the row.
    fn renewal_arrives(&self, state: &mut State, index: usize) {
        let read = owned(state, index).renewal.take();
        let Phase::Owning(view) = &state.workers[index].phase else { return };
        if read != Some(view.applied_seq) {
            state.false_alarm |= self.is_as_left(state, index, view);
            state.workers[index].phase = Phase::Idle;
        }
    }

    fn lose_tail(&self, state: &mut State, keep: u8, fate: Fate) {
        // As many come in the place of what is lost, and one more.
        state.to_publish += state.last_seq() - keep + 1;
        state.stream.truncate(usize::from(keep));
        for worker in &mut state.workers {
            let Phase::Owning(view) = &mut worker.phase else { continue };
            view.reconnected |= self.lost_tail_disconnects;
            let Some(consumer) = &mut view.consumer else { continue };
            match fate {
                Fate::Gone => view.consumer = None,
                // It started at the first message that was let through.
                Fate::Remade => {
                    let start = view.read.first().map_or(consumer.next, |first| first.seq);
                    *consumer = Consumer::from(start);
                }
                Fate::Rewound => {
                    consumer.next = consumer.next.min(keep + 1);
                    consumer.floor = consumer.floor.min(keep);
                }
                Fate::Kept => {}
            }
        }
    }

    pub(crate) fn do_step(&self, state: &mut State, action: Action) {
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
            Action::RenewalReads(index) => {
                owned(state, index).renewal = Some(state.database.row.applied_seq);
            }
            Action::RenewalArrives(index) => self.renewal_arrives(state, index),
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
            // No callback arrives afterwards that would run into the fence.
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
            }
            Action::LoseTail(keep, fate) => {
                left.lost_tails -= 1;
                self.lose_tail(state, keep, fate);
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
