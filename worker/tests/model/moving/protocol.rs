//! When each step can come, the variants, and what must be true.

use stateright::{Model, Property};

use super::state::{Gate, NEW, Number, OLD, Row, Seq, State, Stream, Worker};

pub(super) const ONCE: &str = "nothing is applied twice, or at a position of another";
pub(super) const IN_ORDER: &str = "each job is applied in the order of its callbacks and sequences";
pub(super) const NOTHING_LOST: &str = "nothing in an old stream is left behind";
pub(super) const NEVER_CROSSES: &str = "no owner commits into another generation";
pub(super) const NOBODY_STOPS: &str = "nobody takes a stream for another one";
pub(super) const ENDS: &str = "the move ends, and everything is applied";

/// What the guarded update of a batch compares with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Generation,
    Epoch,
    Owner,
    Checkpoint,
}

/// The steps of `ackline move`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Make,
    Close(Number),
    Mark(Number),
    AwaitMark(Number),
    Open,
    ReadEnds,
    /// One transaction.
    GoOver,
    /// The same for one partition only.
    GoOverAlone(Number),
}

/// The protocol and its variants.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) plan: Vec<Step>,
    pub(super) fence: &'static [Compared],
    /// A worker acquires only rows of the generation that it reads.
    pub(super) acquires_own_generation: bool,
    /// Epochs go on from the highest one.
    pub(super) epochs_go_on: bool,
    /// The database goes over only when the old streams are applied to their ends.
    pub(super) waits_for_ends: bool,
    /// The first sequence of the new stream.
    pub(super) first_seq: Seq,
    /// How many callbacks of each job there are.
    pub(super) callbacks: [u8; 2],
    /// How often a worker takes a partition from a living one, which then is late.
    pub(super) takeovers: u8,
    pub(super) crashes: u8,
    pub(super) take_backs: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// An ingress that believes in this generation publishes the next callback of a job.
    Publish(usize, u8),
    /// The stream stores the next message that it has taken, which confirms it.
    Store(u8, Number),
    /// The leader learns that its stream is closed.
    TakesEffect(Number),
    Acquire(usize, Number),
    Read(usize, Number),
    /// A whole batch: the row is locked from its fence to its commit.
    Apply(usize, Number),
    /// A worker takes up the generation that the database names.
    TakeUp(usize),
    /// The command begins, or begins anew, and finds out what is done.
    Start,
    Do(Step),
    // Faults.
    Crash,
    TakeBack,
}

impl Moving {
    fn publish_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (job, total) in self.callbacks.into_iter().enumerate() {
            // A sender waits for the answer to one before it sends the next.
            if state.published[job] == total || !state.is_confirmed(job) {
                continue;
            }
            for generation in [OLD, NEW] {
                let number = home(generation, job);
                let stream = state.stream(generation, number);
                if stream.is_some_and(|stream| stream.gate != Gate::Closed) {
                    actions.push(Action::Publish(job, generation));
                }
            }
        }
    }

    fn worker_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_fresh = state.rows.iter().flatten().all(|row| row.epoch == 0);
        for (index, worker) in state.workers.iter().enumerate() {
            // The workers are alike, so the first to acquire is called 0.
            if is_fresh && index > 0 {
                continue;
            }
            if worker.generation != state.generation() {
                actions.push(Action::TakeUp(index));
            }
            for (number, view) in worker.views.iter().enumerate() {
                let Some(view) = view else {
                    if self.may_acquire(state, index, number) {
                        actions.push(Action::Acquire(index, number));
                    }
                    continue;
                };
                if view.read.is_some() {
                    actions.push(Action::Apply(index, number));
                } else if state.next(view, number).is_some() && !view.stopped {
                    actions.push(Action::Read(index, number));
                }
            }
        }
    }

    fn may_acquire(&self, state: &State, index: usize, number: Number) -> bool {
        let Some(row) = &state.rows[number] else { return false };
        let is_free = row.owner.is_none_or(|owner| owner == index) || state.takeovers > 0;
        let is_own = row.generation == state.workers[index].generation;
        is_free && (is_own || !self.acquires_own_generation)
    }

    fn move_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(position) = state.next_step else {
            actions.push(Action::Start);
            if state.take_backs > 0 && !state.is_new_open() && state.generation() == OLD {
                actions.push(Action::TakeBack);
            }
            return;
        };
        let Some(step) = self.plan.get(position).copied() else { return };
        if state.crashes > 0 {
            actions.push(Action::Crash);
        }
        let can_come = match step {
            Step::Make | Step::Close(_) | Step::Open | Step::ReadEnds => true,
            // The mark has the subject of a closed stream. A variant publishes it earlier.
            Step::Mark(number) => {
                let closes = self.plan[..position].contains(&Step::Close(number));
                !closes || state.old[number].gate == Gate::Closed
            }
            Step::AwaitMark(number) => state.old[number].is_marked(),
            Step::GoOver => {
                !self.waits_for_ends || state.ends.is_some_and(|ends| state.is_applied_to(ends))
            }
            Step::GoOverAlone(number) => {
                let row = state.rows[number].as_ref();
                row.is_none_or(|row| state.ends.is_some_and(|ends| row.applied_seq == ends[number]))
            }
        };
        if can_come {
            actions.push(Action::Do(step));
        } else if state.ends.is_some_and(|ends| ends != last_seqs(state)) {
            actions.push(Action::Do(Step::ReadEnds));
        }
    }

    /// The move is over, and all callbacks are applied.
    fn is_moved(&self, state: &State) -> bool {
        let is_over = state.generation() == NEW && state.rows[1].is_none();
        is_over && state.effects.len() == usize::from(self.callbacks.iter().sum::<u8>())
    }
}

/// The partition of a job.
pub(super) fn home(generation: u8, job: usize) -> Number {
    if generation == OLD { job } else { 0 }
}

pub(super) fn last_seqs(state: &State) -> [Seq; 2] {
    [state.old[0].last_seq(), state.old[1].last_seq()]
}

impl Model for Moving {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let row = Row { generation: OLD, epoch: 0, owner: None, applied_seq: 0 };
        let worker = Worker { generation: OLD, views: [None, None] };
        let old = Stream::new(Gate::Open, 1);
        vec![State {
            old: [old.clone(), old],
            new: None,
            published: [0, 0],
            rows: [Some(row.clone()), Some(row)],
            effects: Vec::new(),
            workers: [worker.clone(), worker],
            next_step: None,
            ends: None,
            crossed: false,
            takeovers: self.takeovers,
            crashes: self.crashes,
            take_backs: self.take_backs,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.publish_actions(state, actions);
        for (generation, number) in [(OLD, 0), (OLD, 1), (NEW, 0)] {
            let Some(stream) = state.stream(generation, number) else { continue };
            if stream.stored < stream.taken.len() {
                actions.push(Action::Store(generation, number));
            }
            if stream.gate == Gate::Closing {
                actions.push(Action::TakesEffect(number));
            }
        }
        self.worker_actions(state, actions);
        self.move_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.do_action(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, state: &State| state.is_applied_once()),
            Property::always(IN_ORDER, |_, state: &State| state.is_applied_in_order()),
            Property::always(NOTHING_LOST, |_, state: &State| {
                let mut old = state.old.iter().flat_map(Stream::callbacks);
                state.generation() == OLD || old.all(|callback| state.is_applied(callback))
            }),
            Property::always(NEVER_CROSSES, |_, state: &State| !state.crossed),
            Property::always(NOBODY_STOPS, |_, state: &State| {
                let mut views = state.workers.iter().flat_map(|worker| &worker.views).flatten();
                views.all(|view| !view.stopped)
            }),
            // Not an `eventually`: that would be judged only where no fault is left to come.
            Property::always(ENDS, |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || model.is_moved(state)
            }),
            Property::sometimes(
                "it moves while an owner of the old streams is late",
                |model: &Self, state: &State| {
                    model.is_moved(state)
                        && state.workers.iter().any(|worker| worker.generation == OLD)
                },
            ),
        ]
    }
}
