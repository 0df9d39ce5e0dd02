//! What each step does.

use super::protocol::{Action, Compared, Moving, Step, home, last_seqs};
use super::state::{
    Callback, Effect, Gate, Message, NEW, Number, Row, State, Stream, View, Worker,
};

impl Moving {
    fn acquire(&self, state: &mut State, index: usize, number: Number) {
        let generation = state.workers[index].generation;
        let Some(row) = &mut state.rows[number] else { return };
        if row.owner.is_some_and(|owner| owner != index) {
            state.takeovers -= 1;
        }
        row.epoch += 1;
        row.owner = Some(index);
        let (epoch, applied_seq) = (row.epoch, row.applied_seq);
        let ends =
            state.stream(generation, number).map(|stream| (stream.first_seq, stream.last_seq()));
        let stopped = ends.is_none_or(|(first_seq, last_seq)| {
            applied_seq + 1 < first_seq || applied_seq > last_seq
        });
        state.workers[index].views[number] =
            Some(View { generation, epoch, applied_seq, read: None, stopped });
    }

    fn apply(&self, state: &mut State, index: usize, number: Number) {
        let Some(view) = &mut state.workers[index].views[number] else { return };
        let passes = |row: &&mut Row| {
            self.fence.iter().all(|compared| match compared {
                Compared::Generation => row.generation == view.generation,
                Compared::Epoch => row.epoch == view.epoch,
                Compared::Owner => row.owner == Some(index),
                Compared::Checkpoint => row.applied_seq == view.applied_seq,
            })
        };
        let Some(row) = state.rows[number].as_mut().filter(passes) else {
            state.workers[index].views[number] = None;
            return;
        };
        state.crossed |= row.generation != view.generation;
        let seq = view.applied_seq + 1;
        (row.applied_seq, view.applied_seq) = (seq, seq);
        if let Some(Message::Callback(callback)) = view.read.take() {
            state.effects.push(Effect { partition: number, seq, callback });
        }
    }

    /// The row of the new generation's only partition.
    fn new_row(&self, state: &State) -> Row {
        let epochs = state.rows.iter().flatten().map(|row| row.epoch);
        let epoch = if self.epochs_go_on { epochs.max().unwrap_or(0) + 1 } else { 0 };
        Row { generation: NEW, epoch, owner: None, applied_seq: self.first_seq - 1 }
    }

    fn do_move_step(&self, state: &mut State, step: Step) {
        match step {
            // What an interrupted attempt has made is kept.
            Step::Make => {
                state.new.get_or_insert_with(|| Stream::new(Gate::Closed, self.first_seq));
            }
            Step::Close(number) => {
                let stream = &mut state.old[number];
                if stream.gate == Gate::Open {
                    stream.gate = Gate::Closing;
                }
            }
            Step::Mark(number) => state.old[number].taken.push(Message::Mark),
            Step::AwaitMark(_) => {}
            Step::Open => state.new.iter_mut().for_each(|new| new.gate = Gate::Open),
            Step::ReadEnds => state.ends = Some(last_seqs(state)),
            Step::GoOver => state.rows = [Some(self.new_row(state)), None],
            Step::GoOverAlone(0) => state.rows[0] = Some(self.new_row(state)),
            Step::GoOverAlone(number) => state.rows[number] = None,
        }
    }

    /// Where a command begins that finds out what is done: open streams are only opened once the old
    /// ones are closed.
    fn first_step(&self, state: &State) -> usize {
        if state.generation() == NEW {
            return self.plan.len();
        }
        let from = if state.is_new_open() { Step::ReadEnds } else { Step::Make };
        self.plan.iter().position(|step| *step == from).unwrap()
    }

    pub(super) fn do_action(&self, state: &mut State, action: Action) {
        match action {
            Action::Publish(job, generation) => {
                state.published[job] += 1;
                let callback = Callback { job, number: state.published[job] };
                let stream = state.stream_mut(generation, home(generation, job));
                stream.taken.push(Message::Callback(callback));
            }
            Action::Store(generation, number) => state.stream_mut(generation, number).stored += 1,
            Action::TakesEffect(number) => state.old[number].gate = Gate::Closed,
            Action::Acquire(index, number) => self.acquire(state, index, number),
            Action::Read(index, number) => {
                let worker = &state.workers[index];
                let next = worker.views[number].as_ref().and_then(|view| state.next(view, number));
                if let Some(view) = &mut state.workers[index].views[number] {
                    view.read = next;
                }
            }
            Action::Apply(index, number) => self.apply(state, index, number),
            Action::TakeUp(index) => {
                let generation = state.generation();
                state.workers[index] = Worker { generation, views: [None, None] };
            }
            Action::Start => state.next_step = Some(self.first_step(state)),
            Action::Do(step) => {
                self.do_move_step(state, step);
                // The ends are read again while the next step waits for them.
                let is_next = |position: &usize| self.plan[*position] == step;
                if let Some(position) = state.next_step.filter(is_next) {
                    state.next_step = Some(position + 1);
                }
            }
            Action::Crash => {
                state.crashes -= 1;
                (state.next_step, state.ends) = (None, None);
            }
            Action::TakeBack => {
                state.take_backs -= 1;
                state.new = None;
                state.old.iter_mut().for_each(|stream| stream.gate = Gate::Open);
            }
        }
    }
}
