//! A move from two streams to one of the next generation, explored: two workers, senders that go on,
//! and a command that can crash between any two of its steps.

mod perform;
mod protocol;
mod state;

use self::protocol::{
    Compared, IN_ORDER, Moving, NEVER_CROSSES, NOBODY_STOPS, NOTHING_LOST, ONCE, Step,
};
use super::{Explored, finds, holds, never};

impl Explored for Moving {}

const PLAN: [Step; 10] = [
    Step::Make,
    Step::Close(0),
    Step::Close(1),
    Step::Mark(0),
    Step::AwaitMark(0),
    Step::Mark(1),
    Step::AwaitMark(1),
    Step::Open,
    Step::ReadEnds,
    Step::GoOver,
];

/// One callback of a job, and two of another.
fn moving() -> Moving {
    use Compared::{Checkpoint, Epoch, Generation, Owner};
    Moving {
        plan: PLAN.to_vec(),
        fence: &[Generation, Epoch, Owner, Checkpoint],
        acquires_own_generation: true,
        epochs_go_on: true,
        waits_for_ends: true,
        first_seq: 11,
        callbacks: [1, 2],
        takeovers: 1,
        crashes: 0,
        take_backs: 0,
    }
}

#[test]
fn a_move_under_load() {
    holds("a move", moving());
}

#[test]
fn a_move_that_crashes_and_is_taken_back() {
    holds(
        "a move that crashes",
        Moving { callbacks: [0, 2], crashes: 2, take_backs: 1, takeovers: 0, ..moving() },
    );
}

/// The same steps in another order, or only some of them.
fn planned(plan: &[Step]) -> Moving {
    Moving { plan: plan.to_vec(), ..moving() }
}

/// What the leader has taken before it knew that its stream is closed comes after the end was read.
#[test]
fn without_marks_after_closing_a_callback_is_lost() {
    let is_mark = |step: &Step| matches!(step, Step::Mark(_) | Step::AwaitMark(_));
    let (marks, mut plan): (Vec<_>, Vec<_>) = PLAN.into_iter().partition(is_mark);
    finds(NOTHING_LOST, planned(&plan));
    plan.splice(1..1, marks);
    finds(NOTHING_LOST, planned(&plan));
}

/// One ingress knows the new streams, and another one still finds the old ones open.
#[test]
fn with_both_generations_open_a_job_is_applied_out_of_order() {
    let mut plan = PLAN.to_vec();
    plan.retain(|step| *step != Step::Open);
    plan.insert(1, Step::Open);
    finds(IN_ORDER, planned(&plan));
}

#[test]
fn without_waiting_for_the_ends_a_callback_is_lost() {
    finds(NOTHING_LOST, Moving { waits_for_ends: false, ..moving() });
}

/// A job's first callback waits in a partition that has not gone over, and its second one is applied
/// from one that has.
#[test]
fn with_a_transaction_for_each_partition_a_job_is_applied_out_of_order() {
    let mut plan = PLAN.to_vec();
    plan.pop();
    plan.extend([Step::GoOverAlone(0), Step::GoOverAlone(1)]);
    finds(IN_ORDER, planned(&plan));
}

#[test]
fn with_sequences_that_begin_anew_positions_collide() {
    let anew = Moving { first_seq: 1, ..moving() };
    finds(ONCE, anew.clone());
    finds(IN_ORDER, anew);
}

/// A worker that does not know of the move acquires the new row, and does not find its checkpoint in
/// the old stream.
#[test]
fn without_the_generation_in_the_acquisition_a_sound_partition_is_stopped() {
    finds(NOBODY_STOPS, Moving { acquires_own_generation: false, ..moving() });
}

/// The generation in the fence is one of four safeguards, of which each suffices here. It is the only
/// one that does not count on what else the move does.
#[test]
fn without_all_of_the_fence_a_late_owner_commits_into_the_new_generation() {
    use Compared::{Checkpoint, Epoch, Generation, Owner};
    let fenced = |fence| Moving { callbacks: [0, 1], fence, ..moving() };
    finds(NEVER_CROSSES, fenced(&[]));
    for fence in [&[Generation], &[Epoch], &[Owner], &[Checkpoint]] {
        never(NEVER_CROSSES, fenced(fence));
    }
    finds(NEVER_CROSSES, Moving { epochs_go_on: false, ..fenced(&[Epoch]) });
    finds(NEVER_CROSSES, Moving { first_seq: 1, ..fenced(&[Checkpoint]) });
    let careless = Moving { epochs_go_on: false, first_seq: 1, ..fenced(&[Generation]) };
    never(NEVER_CROSSES, careless);
}
