//! The verdict on a stream, and why a partition stops.

use chrono::DateTime;
use sea_orm::Iterable;
use worker::entity::partition::Model as Row;
use worker::rules::stop_reason::{Mismatch, StopCode, StopReason};
use worker::rules::verdict::{Checkpoint, Description, Message, Verdict, judge};

const APPLIED: Checkpoint<'_> = Checkpoint {
    applied_seq: 5,
    applied_msg_id: Some("five"),
    stream_created_at: Some(DateTime::UNIX_EPOCH),
    is_accepted: false,
};
const STREAM: Description = Description {
    created_at: DateTime::UNIX_EPOCH,
    first_seq: 1,
    last_seq: 9,
    has_leader: true,
    replicas: 3,
};
const FRESH: Checkpoint<'_> = Checkpoint {
    applied_seq: 0,
    applied_msg_id: None,
    stream_created_at: None,
    is_accepted: false,
};

#[test]
fn a_checkpoint_has_no_message_where_it_was_accepted_and_nothing_applied_since() {
    for (accepted_seq, has_message) in [(None, true), (Some(5), false), (Some(4), true)] {
        let row = Row { applied_seq: 5, accepted_seq, ..Row::default() };
        assert_eq!(Checkpoint::from(&row).has_message(), has_message, "{accepted_seq:?}");
    }
}

#[test]
fn a_stream_is_judged_by_its_description() {
    let created_at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let accepted = Checkpoint { is_accepted: true, applied_msg_id: None, ..APPLIED };
    let from = |first_seq| Description { first_seq, ..STREAM };
    let empty = Description { first_seq: 0, last_seq: 0, ..STREAM };
    let recreated = Mismatch::Recreated { created_at };
    let lost_tail = Mismatch::LostTail { last_seq: 4, applied_seq: 5 };
    let purged =
        |first_seq, applied_seq| Verdict::Differs(Mismatch::Purged { first_seq, applied_seq });
    for (checkpoint, stream, verdict) in [
        (APPLIED, STREAM, Verdict::Believed),
        (APPLIED, Description { last_seq: 5, ..STREAM }, Verdict::Believed),
        (APPLIED, Description { created_at, ..STREAM }, Verdict::Differs(recreated)),
        (APPLIED, Description { last_seq: 4, ..STREAM }, Verdict::Differs(lost_tail)),
        (APPLIED, from(5), Verdict::Believed),
        (APPLIED, from(6), purged(6, 5)),
        (accepted, from(6), Verdict::Believed),
        (accepted, from(7), purged(7, 5)),
        (FRESH, empty, Verdict::Believed),
        (FRESH, Description { created_at, ..STREAM }, Verdict::Believed),
        (FRESH, from(2), purged(2, 0)),
    ] {
        assert_eq!(judge(&checkpoint, &stream, Message::NotRead), verdict, "{stream:?}");
        let alone = Description { has_leader: false, ..stream };
        assert_eq!(judge(&checkpoint, &alone, Message::NotRead), Verdict::NoLeader);
    }
}

#[test]
fn the_message_at_the_checkpoint_is_judged_where_there_must_be_one() {
    let gone = Verdict::Differs(Mismatch::MessageGone { seq: 5 });
    let other = Verdict::Differs(Mismatch::OtherMessage { seq: 5 });
    for (message, verdict) in [
        (Message::Id(Some("five")), Verdict::Believed),
        (Message::Id(Some("six")), other),
        (Message::Id(None), other),
        (Message::Gone, gone),
    ] {
        assert_eq!(judge(&APPLIED, &STREAM, message), verdict, "{message:?}");
        let accepted = Checkpoint { is_accepted: true, ..APPLIED };
        assert_eq!(judge(&accepted, &STREAM, message), Verdict::Believed, "accepted");
        assert_eq!(judge(&FRESH, &STREAM, message), Verdict::Believed, "nothing applied");
    }
    let unnamed = Checkpoint { applied_msg_id: None, ..APPLIED };
    assert_eq!(judge(&unnamed, &STREAM, Message::Id(None)), Verdict::Believed);
}

#[test]
fn a_reason_is_told_by_its_code() {
    let created_at = DateTime::UNIX_EPOCH;
    let reasons = [
        StopReason::Stream(Mismatch::Recreated { created_at }),
        StopReason::Stream(Mismatch::LostTail { last_seq: 3, applied_seq: 9 }),
        StopReason::Stream(Mismatch::Purged { first_seq: 6, applied_seq: 3 }),
        StopReason::Stream(Mismatch::MessageGone { seq: 4 }),
        StopReason::Stream(Mismatch::OtherMessage { seq: 3 }),
        StopReason::DeadLetters { applied_seq: 3 },
        StopReason::Database { applied_seq: 3, error: "permission denied for table jobs".into() },
    ];
    let codes: Vec<StopCode> = reasons.iter().map(StopReason::code).collect();
    assert_eq!(codes, StopCode::iter().collect::<Vec<_>>());
    for reason in reasons {
        assert_eq!(reason.to_string().parse(), Ok(reason.code()), "{reason}");
    }
    for other in ["", "ACK-1", "ACK-1060: x", "too many dead letters in a row, after 3"] {
        assert_eq!(other.parse::<StopCode>(), Err(()), "{other:?}");
    }
}

#[test]
fn only_what_a_description_says_may_pass_and_only_in_a_cluster() {
    for replicas in [1, 3] {
        let may_pass = |mismatch: Mismatch| mismatch.may_pass(replicas);
        assert_eq!(may_pass(Mismatch::LostTail { last_seq: 3, applied_seq: 9 }), replicas > 1);
        assert!(!may_pass(Mismatch::OtherMessage { seq: 3 }));
    }
}
