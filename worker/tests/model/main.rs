//! The ownership protocol, explored: one partition, two workers, and every order in which their
//! steps and a bounded number of faults can come. `moving` does the same for a move to the next
//! generation of streams.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, reason = "how much was explored is worth a line")]

mod moving;
mod perform;
mod protocol;
mod state;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

use crate::protocol::{
    APPLIED_IN_THE_END, Fence, KNOWS_CHECKPOINT, LateRenewals, NEVER_SKIPS, NO_FALSE_ALARMS,
    ONCE_IN_ORDER, Protocol,
};
use crate::state::{Fate, Faults};

/// Three faults at most, of the kinds that a test adds.
const THREE_OF: Faults = Faults {
    total: 3,
    crashes: 0,
    pauses: 0,
    releases: 0,
    commits: 0,
    deliveries: 0,
    restores: 0,
    lost_tails: 0,
};

fn protocol(faults: Faults) -> Protocol {
    Protocol {
        fence: Fence::EpochOwnerAndCheckpoint,
        fresh_consumers: true,
        acquiring_reads: true,
        renewal_brings_checkpoint: true,
        late_renewals: LateRenewals::None,
        reconnects_are_anomalies: true,
        compares_redelivered: true,
        lost_tail_disconnects: true,
        fates: &[Fate::Gone, Fate::Remade, Fate::Rewound, Fate::Kept],
        messages: 3,
        faults,
    }
}

/// What a checker needs of a model.
trait Explored:
    Model<
        State: Clone + Debug + PartialEq + Hash + Send + Sync,
        Action: Clone + Debug + PartialEq + Send + Sync,
    > + Send
    + Sync
    + 'static
{
}

impl Explored for Protocol {}

/// Explores everything, and prints how much that is.
fn holds<M: Explored>(name: &str, model: M) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

/// Finds a run that violates a property, and prints it.
fn finds<M: Explored>(property: &'static str, model: M) {
    let wanted = HasDiscoveries::AllOf([property].into());
    let checker = model.checker().finish_when(wanted).spawn_bfs().join();
    let path = checker.discovery(property).unwrap();
    println!("violates {property:?}: {:?}", path.into_actions());
}

/// Explores until this property is violated, which never happens.
fn never<M: Explored>(property: &'static str, model: M) {
    let wanted = HasDiscoveries::AllOf([property].into());
    let checker = model.checker().threads(2).finish_when(wanted).spawn_bfs().join();
    checker.assert_no_discovery(property);
}

#[test]
fn workers_that_crash_pause_and_hand_over() {
    let faults = Faults { crashes: 1, pauses: 2, releases: 1, ..THREE_OF };
    holds("workers", protocol(faults));
}

#[test]
fn commits_with_unknown_outcome() {
    let faults = Faults { commits: 2, crashes: 1, pauses: 1, ..THREE_OF };
    holds("commits", protocol(faults));
}

#[test]
fn deliveries_and_acks_that_are_lost_or_late() {
    let faults = Faults { deliveries: 2, crashes: 1, pauses: 1, ..THREE_OF };
    holds("deliveries", protocol(faults));
}

#[test]
fn a_database_that_is_restored() {
    let faults = Faults {
        total: 2,
        restores: 1,
        lost_tails: 1,
        crashes: 1,
        pauses: 1,
        commits: 1,
        ..THREE_OF
    };
    holds("restores", Protocol { messages: 2, fates: &[Fate::Kept], ..protocol(faults) });
}

#[test]
fn a_stream_that_loses_its_tail() {
    let faults = Faults { total: 2, lost_tails: 1, crashes: 1, pauses: 1, commits: 1, ..THREE_OF };
    holds("lost tails", protocol(faults));
}

/// A paused owner wakes up and applies what another has applied already.
#[test]
fn without_the_fence_a_message_is_applied_twice() {
    let faults = Faults { total: 1, pauses: 1, ..THREE_OF };
    let model = Protocol { fence: Fence::Nothing, ..protocol(faults) };
    finds(ONCE_IN_ORDER, model);
}

/// What a dead owner had in its buffer comes after what its successor is given first.
#[test]
fn without_a_fresh_consumer_a_message_is_skipped() {
    let faults = Faults { total: 1, crashes: 1, ..THREE_OF };
    let model = Protocol { fresh_consumers: false, ..protocol(faults) };
    finds(NEVER_SKIPS, model.clone());
    finds(ONCE_IN_ORDER, model);
}

/// A commit comes between the reading and the acquiring, and the new owner starts before it.
#[test]
fn without_the_read_while_acquiring_a_message_is_applied_twice() {
    let faults = Faults { total: 2, pauses: 1, commits: 1, ..THREE_OF };
    let sound = Protocol { fence: Fence::EpochAndOwner, ..protocol(faults) };
    let apart = Protocol { acquiring_reads: false, ..sound.clone() };
    holds("read while acquiring, fence without the checkpoint", sound);
    finds(KNOWS_CHECKPOINT, apart.clone());
    finds(ONCE_IN_ORDER, apart.clone());

    // The checkpoint in the fence is the second safeguard against the same fault.
    let fenced = Protocol { fence: Fence::EpochOwnerAndCheckpoint, ..apart };
    finds(KNOWS_CHECKPOINT, fenced);
}

/// A restore takes the checkpoint back under a living owner, in its own epoch.
#[test]
fn after_a_restore_epoch_and_owner_are_not_enough_of_a_fence() {
    let faults = Faults { total: 1, restores: 1, ..THREE_OF };
    finds(ONCE_IN_ORDER, Protocol { fence: Fence::EpochAndOwner, ..protocol(faults) });
}

/// An owner that was taken back in its own epoch would notice it by the fence only, and that needs
/// something to apply.
#[test]
fn without_the_checkpoint_in_the_renewal_a_restore_is_not_noticed() {
    let faults = Faults { total: 1, restores: 1, ..THREE_OF };
    finds(APPLIED_IN_THE_END, Protocol { renewal_brings_checkpoint: false, ..protocol(faults) });
}

/// A renewal that read the row before a commit says nothing about what that commit left.
#[test]
fn a_renewal_that_began_before_a_commit_is_a_false_alarm() {
    let faults = Faults { total: 1, restores: 1, commits: 1, pauses: 1, ..THREE_OF };
    let late = Protocol { messages: 2, late_renewals: LateRenewals::Ignored, ..protocol(faults) };
    holds("late renewals", late.clone());
    finds(NO_FALSE_ALARMS, Protocol { late_renewals: LateRenewals::Believed, ..late });
}

/// A consumer that outlives the loss delivers other messages at sequences that were applied, or
/// leaves them out.
#[test]
fn without_the_end_of_a_feed_at_a_reconnect_a_message_is_skipped() {
    let faults = Faults { total: 1, lost_tails: 1, ..THREE_OF };
    let trusting = Protocol { reconnects_are_anomalies: false, ..protocol(faults) };
    finds(NEVER_SKIPS, trusting.clone());
    for fate in [&[Fate::Remade], &[Fate::Rewound], &[Fate::Kept]] {
        let blind = Protocol { compares_redelivered: false, fates: fate, ..trusting.clone() };
        finds(NEVER_SKIPS, blind);
    }
}

/// In a cluster the stream may be another server's than the one that the worker is connected to.
/// What is left then is that other messages come at sequences that were read.
#[test]
fn without_a_look_at_what_is_delivered_again_a_message_is_skipped() {
    let faults = Faults { total: 2, lost_tails: 1, crashes: 1, pauses: 1, ..THREE_OF };
    let model = Protocol {
        messages: 2,
        lost_tail_disconnects: false,
        fates: &[Fate::Gone, Fate::Remade, Fate::Rewound],
        ..protocol(faults)
    };
    holds("lost tails of another server", model.clone());
    finds(NEVER_SKIPS, Protocol { compares_redelivered: false, ..model });
}

// What the protocol counts on, besides its own means.

/// Only a disconnect tells of a consumer that goes on beyond what its stream has lost.
#[test]
fn a_consumer_must_not_go_on_beyond_a_loss_without_a_disconnect() {
    let faults = Faults { total: 1, lost_tails: 1, ..THREE_OF };
    let model = Protocol { lost_tail_disconnects: false, ..protocol(faults) };
    finds(NEVER_SKIPS, Protocol { fates: &[Fate::Kept], ..model });
}
