//! What a batch writes beside the jobs: rows of events, dead letters, counts.

use std::collections::BTreeMap;

use sea_orm::Iterable;
use shared::callback::Callback;
use worker::entity::dead_letter::{Model as DeadLetter, State};
use worker::entity::job::Model as Job;
use worker::entity::job_event::{Effect, Kind, Model as JobEvent};
use worker::rules::batch::{InRow, Known, Plan, Seen, bury, fold, record, step};
use worker::rules::decision::{self, Decision, Reason};
use worker::rules::event::{Action, Content, Event, Incoming, Order, Position};
use worker::rules::known_refusals::KnownRefusals;
use worker::rules::transition::Outcome;

use crate::events::*;

const PARTITION: i32 = 5;

fn position(seq: i64) -> Position {
    Position { seq, idx: 0 }
}

fn incoming(seq: i64, refusals: i32, content: Content) -> Incoming {
    Incoming {
        partition: PARTITION,
        position: position(seq),
        at: at(seq),
        subject: "callbacks.1.05".into(),
        speaker: Some("key".into()),
        run: None,
        payload: format!("payload {seq}").into(),
        refusals,
        redriven: None,
        trace: None,
        content,
    }
}

/// A callback of this job with this event id.
fn of(seq: i64, job: &str, event_id: &str, callback: Callback) -> Incoming {
    let (job_id, event_id) = (job.into(), Some(event_id.into()));
    incoming(seq, 0, Content::Event(event(seq, Callback { job_id, event_id, ..callback })))
}

fn undecodable(seq: i64, refusals: i32) -> Incoming {
    incoming(seq, refusals, Content::Undecodable("no JSON".into()))
}

fn order(action: Action) -> Order {
    Order {
        action,
        partition: PARTITION,
        target: position(3),
        refusal: 1,
        reason: "too long".into(),
    }
}

/// A dead letter of `incoming`; job and event id are those of its event.
fn letter(
    seq: i64,
    of: Option<(&str, &str)>,
    state: State,
    refusals: i32,
    why: &str,
) -> DeadLetter {
    DeadLetter {
        partition: PARTITION,
        seq,
        idx: 0,
        job_id: of.map(|(job, _)| job.into()),
        state,
        reason: why.into(),
        subject: "callbacks.1.05".into(),
        event_id: of.map(|(_, event_id)| event_id.into()),
        speaker: Some("key".into()),
        run: None,
        payload: format!("payload {seq}").into(),
        received_at: at(seq),
        refusals,
    }
}

/// What an event in the stream of this partition does to its job.
fn applied(
    job: Option<Job>,
    seen: &mut Seen,
    event: &Event,
    partition: i32,
) -> (Outcome, Option<JobEvent>) {
    let content = Content::Event(event.clone());
    let incoming = Incoming { partition, ..incoming(event.position.seq, 0, content) };
    step(job, seen, &incoming, event, partition)
}

const HELD: &str = "an earlier callback of the job is a dead letter";

#[test]
fn a_batch_applies_buries_and_holds_in_the_order_of_the_stream() {
    let mut decided = KnownRefusals::default();
    decided.insert(PARTITION, position(1), 1, "too long".into());
    decided.insert(PARTITION, position(8), 3, "refused again".into());
    let batch = [
        of(1, "dead", "a", provisioning()),
        of(2, "dead", "b", running()),
        of(3, "long held", "c", heartbeat()),
        incoming(4, 0, Content::Order(order(Action::Discard))),
        undecodable(5, 0),
        of(6, "sound", "d", running()),
        of(7, "sound", "d", running()),
        undecodable(8, 2),
        of(9, "sound", "e", failed()),
        undecodable(10, 1),
    ];
    let known = Known { held: ["long held".into()].into(), ..Known::default() };
    let plan = fold(known, &batch, &decided, PARTITION, 3);

    let job = plan.jobs.iter().map(|job| (&*job.id, job.partition, job.last_seq));
    assert_eq!(job.collect::<Vec<_>>(), [("sound", PARTITION, 6)]);
    let rows = plan.events.iter().map(|row| (row.seq, row.outcome, row.reason.as_deref()));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (6, Effect::Applied, None),
            (7, Effect::Ignored, Some("duplicate")),
            (9, Effect::Ignored, Some("finished")),
        ]
    );
    assert_eq!(
        plan.dead_letters,
        [
            letter(1, Some(("dead", "a")), State::Dead, 1, "too long"),
            letter(2, Some(("dead", "b")), State::Held, 0, HELD),
            letter(3, Some(("long held", "c")), State::Held, 0, HELD),
            letter(5, None, State::Dead, 1, "no JSON"),
            letter(8, None, State::Dead, 3, "refused again"),
            letter(10, None, State::Dead, 2, "no JSON"),
        ]
    );
    assert_eq!(
        plan.effects,
        BTreeMap::from([
            (decision::Effect::Applied, 1),
            (decision::Effect::Dead, 4),
            (decision::Effect::Held, 2),
            (decision::Effect::Ignored, 2),
        ])
    );
    assert_eq!(plan.ignored, BTreeMap::from([(Reason::Duplicate, 1), (Reason::Finished, 1)]));
    let decisions = plan
        .decisions
        .iter()
        .map(|one| (one.position.seq, one.effect.as_str(), one.reason.map(Reason::as_str)));
    assert_eq!(
        decisions.collect::<Vec<_>>(),
        [
            (1, "dead", None),
            (2, "held", Some(HELD)),
            (3, "held", Some(HELD)),
            (5, "dead", None),
            (6, "applied", None),
            (7, "ignored", Some("duplicate")),
            (8, "dead", None),
            (9, "ignored", Some("finished")),
            (10, "dead", None),
        ]
    );
    // Three before the batch and two in it. What is applied begins anew; what is ignored does not.
    assert_eq!(plan.in_row, InRow { now: 2, most: 5 });
}

#[test]
fn dead_letters_in_a_row_are_counted_over_batches() {
    let mut count = InRow::from(2);
    assert_eq!(count, InRow { now: 2, most: 2 });
    count.then(InRow { now: 0, most: 4 });
    assert_eq!(count, InRow { now: 0, most: 4 });
    count.then(InRow { now: 1, most: 1 });
    assert_eq!(count, InRow { now: 1, most: 4 });
}

#[test]
fn what_the_database_refuses_is_buried_alone() {
    let refused = of(7, "job", "a", running());
    let refused = Incoming { refusals: 1, ..refused };
    let expected = Plan {
        dead_letters: vec![letter(7, Some(("job", "a")), State::Dead, 2, "value too long")],
        effects: BTreeMap::from([(decision::Effect::Dead, 1)]),
        decisions: vec![Decision {
            position: position(7),
            effect: decision::Effect::Dead,
            reason: None,
        }],
        in_row: InRow { now: 5, most: 5 },
        ..Plan::default()
    };
    assert_eq!(bury(&refused, 4, "value too long"), expected);
    let silence = incoming(8, 0, Content::Event(lost(8, position(7))));
    let [buried] = &bury(&silence, 0, "why").dead_letters[..] else { panic!("one") };
    assert_eq!((buried.job_id.as_deref(), buried.event_id.as_deref()), (Some("job"), None));
}

#[test]
fn an_order_is_on_record_whatever_it_found() {
    let none = "no dead letter at 05/3/0";
    for (action, kind) in [(Action::Requeue, Kind::Requeue), (Action::Discard, Kind::Discard)] {
        for (found, job_id, outcome, reason, why) in [
            (Some(Some("job")), "job", Effect::Applied, "dead letter 05/3/0", None),
            (Some(None), "", Effect::Applied, "dead letter 05/3/0", None),
            (None, "", Effect::Ignored, none, Some(Reason::NoSuchDeadLetter)),
        ] {
            let asked = incoming(9, 0, Content::Order(order(action)));
            let expected = Plan {
                events: vec![JobEvent {
                    partition: PARTITION,
                    seq: 9,
                    idx: 0,
                    job_id: job_id.into(),
                    kind,
                    from_status: None,
                    to_status: None,
                    outcome,
                    reason: Some(reason.into()),
                    event_id: None,
                    workflow_run_id: None,
                    run_attempt: None,
                    error: None,
                    failed_step: None,
                    outputs: None,
                    phase: None,
                    speaker: Some("key".into()),
                    redriven_seq: None,
                    redriven_idx: None,
                    received_at: at(9),
                }],
                effects: BTreeMap::from([(outcome.into(), 1)]),
                decisions: vec![Decision {
                    position: position(9),
                    effect: outcome.into(),
                    reason: why,
                }],
                in_row: InRow { now: 2, most: 2 },
                ..Plan::default()
            };
            assert_eq!(record(&asked, &order(action), found, 2), expected);
        }
    }
}

#[test]
fn a_row_of_an_event_has_what_it_carried() {
    let mut seen = Seen::default();
    let first = Callback { event_id: Some("a".into()), ..of_run(provisioning(), 7, Some(1)) };
    let (outcome, row) = applied(None, &mut seen, &event(1, first.clone()), PARTITION);
    let job = outcome.job.unwrap();
    assert_eq!(job.partition, PARTITION);
    assert_eq!((row.unwrap().reason, outcome.reason), (None, None));

    // One that changes nothing leaves the job's row as it is.
    let elsewhere = PARTITION + 1;
    let again = Callback { event_id: Some("b".into()), ..first.clone() };
    let (outcome, row) = applied(Some(job.clone()), &mut seen, &event(2, again), elsewhere);
    assert_eq!((outcome.job.unwrap().partition, row.unwrap().partition), (PARTITION, elsewhere));

    // An id that comes with another status is no duplicate, and on record.
    let said = Callback { event_id: Some("a".into()), ..of_run(failed(), 7, Some(1)) };
    let (outcome, row) = applied(Some(job.clone()), &mut seen, &event(3, said), PARTITION);
    assert_eq!(outcome.effect, Effect::Applied);
    assert_eq!(
        row.unwrap(),
        JobEvent {
            partition: PARTITION,
            seq: 3,
            idx: 0,
            job_id: "job".into(),
            kind: Kind::Failed,
            from_status: Some(worker::entity::job::Status::Provisioning),
            to_status: Some(worker::entity::job::Status::Failed),
            outcome: Effect::Applied,
            reason: Some("event_id reused".into()),
            event_id: Some("a".into()),
            workflow_run_id: Some("7".into()),
            run_attempt: Some(1),
            error: Some("no quota".into()),
            failed_step: Some("apply".into()),
            outputs: None,
            phase: None,
            speaker: Some("key".into()),
            redriven_seq: None,
            redriven_idx: None,
            received_at: at(3),
        }
    );

    // A heartbeat's id is not looked at, and it leaves no row unless it changes the status.
    let beat = Callback { event_id: Some("a".into()), ..heartbeat() };
    for seq in [4, 5] {
        let (outcome, row) =
            applied(Some(job.clone()), &mut seen, &event(seq, beat.clone()), PARTITION);
        assert_eq!((outcome.effect, outcome.reason, row), (Effect::Applied, None, None));
    }
    assert_eq!(seen[&("job".into(), "a".into())], [Kind::Provisioning, Kind::Failed].into());

    // Only a silence that counts says why.
    for (witness, error) in [(1, Some("no heartbeat since 2027-01-15T08:00:01Z")), (0, None)] {
        let (_, row) =
            applied(Some(job.clone()), &mut seen, &lost(6, position(witness)), PARTITION);
        assert_eq!(row.unwrap().error.as_deref(), error);
    }

    // What the job has is not what an event carried.
    let job = applied(Some(job), &mut seen, &event(7, failed()), PARTITION).0.job.unwrap();
    assert_eq!(job.error.as_deref(), Some("no quota"));
    for later in [event(8, queued()), lost(8, position(7))] {
        let (_, row) = applied(Some(job.clone()), &mut seen, &later, PARTITION);
        assert_eq!(row.unwrap().error, None, "{later:?}");
    }
}

#[test]
fn a_silence_is_counted_as_presumed_only_if_it_changes_the_job() {
    let job =
        applied(None, &mut Seen::default(), &event(1, provisioning()), PARTITION).0.job.unwrap();
    for (witness, effect) in [(1, decision::Effect::Presumed), (0, decision::Effect::Ignored)] {
        let known = Known { jobs: [(job.id.clone(), job.clone())].into(), ..Known::default() };
        let batch = [incoming(2, 0, Content::Event(lost(2, position(witness))))];
        let plan = fold(known, &batch, &KnownRefusals::default(), PARTITION, 0);
        assert_eq!(plan.effects, BTreeMap::from([(effect, 1)]));
        assert_eq!(plan.jobs.len(), usize::from(effect == decision::Effect::Presumed));
    }
}

#[test]
fn a_refusal_is_known_by_its_callback_and_its_number_and_the_first_order_tells_it() {
    let mut decided = KnownRefusals::default();
    assert_eq!((decided.len(), decided.is_empty()), (0, true));
    decided.learn(&order(Action::Requeue));
    decided.learn(&Order { reason: "another".into(), ..order(Action::Discard) });
    decided.learn(&Order { refusal: 2, reason: "too late".into(), ..order(Action::Discard) });
    assert_eq!((decided.len(), decided.is_empty()), (2, false));
    for (seq, refusals, reason) in
        [(3, 0, Some("too long")), (3, 1, Some("too late")), (3, 2, None), (4, 0, None)]
    {
        assert_eq!(decided.reason(&undecodable(seq, refusals)), reason, "{seq} {refusals}");
    }
}

#[test]
fn what_people_look_for_is_logged_by_default() {
    use decision::Effect::{self, Dead, Held, Presumed, Revived};
    let noted: Vec<_> = Effect::iter().filter(|effect| effect.is_noted()).collect();
    assert_eq!(noted, [Presumed, Revived, Held, Dead]);
}
