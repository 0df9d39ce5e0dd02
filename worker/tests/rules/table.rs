//! The transition table, cell by cell, and the rules about runs and duplicates.

use shared::callback::Callback;
use worker::entity::job::{Failure, Model as Job, Status};
use worker::entity::job_event::{Effect, Kind};
use worker::rules::decision::Reason;
use worker::rules::event::{Body, Event, Position};
use worker::rules::transition::{Outcome, apply, kind};

use crate::events::*;

/// Applies one event after another, as the only ones of the stream.
fn fold(job: Option<Job>, events: &[Event]) -> Option<Job> {
    events.iter().fold(job, |job, event| apply(job, event, false).job)
}

fn witness(job: &Job) -> Position {
    Position { seq: job.last_seq, idx: job.last_idx }
}

/// The rows of the table: a job of run 7, attempt 1, in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Queued,
    Provisioning,
    Running,
    FailedReported,
    FailedPresumed,
}

impl Row {
    const ALL: [Self; 5] = [
        Self::Queued,
        Self::Provisioning,
        Self::Running,
        Self::FailedReported,
        Self::FailedPresumed,
    ];

    fn job(self) -> Job {
        let begun = event(1, of_run(provisioning(), 7, Some(1)));
        let in_run = |callback| event(2, of_run(callback, 7, Some(1)));
        let events = match self {
            Self::Queued => vec![event(1, of_run(queued(), 7, Some(1)))],
            Self::Provisioning => vec![begun],
            Self::Running => vec![begun, in_run(running())],
            Self::FailedReported => vec![begun, in_run(failed())],
            Self::FailedPresumed => vec![begun, lost(2, Position { seq: 1, idx: 0 })],
        };
        let job = fold(None, &events).unwrap();
        let expected = match self {
            Self::Queued => (Status::Queued, None),
            Self::Provisioning => (Status::Provisioning, None),
            Self::Running => (Status::Running, None),
            Self::FailedReported => (Status::Failed, Some(Failure::Reported)),
            Self::FailedPresumed => (Status::Failed, Some(Failure::Presumed)),
        };
        assert_eq!((job.status, job.failure), expected);
        job
    }

    fn status(self) -> Status {
        self.job().status
    }
}

fn hear(row: Row, column: Kind) -> (Job, Outcome) {
    let job = row.job();
    let heard = match column {
        Kind::Queued => event(9, queued()),
        Kind::Provisioning => event(9, of_run(provisioning(), 7, Some(1))),
        Kind::Running => event(9, running()),
        Kind::Failed => event(9, failed()),
        Kind::Heartbeat => event(9, heartbeat()),
        Kind::Lost => lost(9, witness(&job)),
        Kind::Requeue | Kind::Discard => unreachable!("orders are no events of a job"),
    };
    assert_eq!(kind(&heard), column);
    let outcome = apply(Some(job.clone()), &heard, false);
    assert_eq!(outcome.from, Some(job.status));
    assert_eq!(outcome.to, outcome.job.as_ref().map(|job| job.status));
    if !outcome.changed {
        assert_eq!(outcome.job, Some(job.clone()), "what changed nothing left the row as it was");
    }
    (job, outcome)
}

#[test]
fn every_cell_of_the_table() {
    use Effect::{Applied, Ignored, Revived, Unchanged};
    use Kind::{Failed, Heartbeat, Lost, Provisioning, Queued, Running};
    let columns = [Queued, Provisioning, Running, Failed, Heartbeat, Lost];
    let fill = |row: Row| (row.status(), None, Applied);
    let finished = |row: Row| (row.status(), Some(Reason::Finished), Ignored);
    let to = |status| (status, None, Applied);
    let unchanged = |row: Row| (row.status(), None, Unchanged);
    let revived = |status| (status, None, Revived);
    let (provisioning, running, failed) = (Status::Provisioning, Status::Running, Status::Failed);

    for row in Row::ALL {
        let cells = match row {
            // A queued job has what `fill` would fill already.
            Row::Queued => [
                unchanged(row),
                to(provisioning),
                to(running),
                to(failed),
                to(Status::Queued),
                to(failed),
            ],
            Row::Provisioning => {
                [fill(row), unchanged(row), to(running), to(failed), to(provisioning), to(failed)]
            }
            Row::Running => [
                fill(row),
                finished(row),
                unchanged(row),
                finished(row),
                finished(row),
                finished(row),
            ],
            Row::FailedReported => [
                fill(row),
                finished(row),
                finished(row),
                unchanged(row),
                finished(row),
                finished(row),
            ],
            Row::FailedPresumed => [
                fill(row),
                revived(provisioning),
                revived(running),
                to(failed),
                revived(provisioning),
                unchanged(row),
            ],
        };
        for (column, (status, reason, effect)) in columns.into_iter().zip(cells) {
            let (_, outcome) = hear(row, column);
            assert_eq!(outcome.to, Some(status), "{row:?} hears {column:?}");
            assert_eq!(outcome.reason, reason, "{row:?} hears {column:?}");
            assert_eq!(outcome.effect, effect, "{row:?} hears {column:?}");
        }
    }
}

#[test]
fn a_first_callback_creates_the_job_in_its_state() {
    for (callback, status) in [
        (queued(), Status::Queued),
        (provisioning(), Status::Provisioning),
        (running(), Status::Running),
        (failed(), Status::Failed),
        (heartbeat(), Status::Provisioning),
    ] {
        let outcome = apply(None, &event(1, callback), false);
        let job = outcome.job.unwrap();
        assert_eq!((outcome.from, outcome.to), (None, Some(status)));
        assert_eq!((job.status, job.created_at, job.updated_at), (status, at(1), at(1)));
        assert_eq!((job.first_seq, job.last_seq), (1, 1));
    }
    let silent = apply(None, &lost(1, Position { seq: 0, idx: 0 }), false);
    assert_eq!((silent.job, silent.effect), (None, Effect::Ignored));
}

#[test]
fn fill_sets_what_is_empty_and_nothing_else() {
    for row in Row::ALL {
        let before = row.job();
        let (_, outcome) = hear(row, Kind::Queued);
        let after = outcome.job.unwrap();
        if row == Row::Queued {
            assert_eq!(after, before);
            continue;
        }
        let expected = Job {
            agent_id: Some("agent".into()),
            region: Some("eu".into()),
            queued_at: Some(at(9)),
            updated_at: at(9),
            last_seq: 9,
            ..before
        };
        assert_eq!(after, expected, "{row:?}");
    }
}

#[test]
fn a_failure_says_where_and_why_and_a_revival_forgets_it() {
    let (_, outcome) = hear(Row::Provisioning, Kind::Failed);
    let job = outcome.job.unwrap();
    assert_eq!(job.error.as_deref(), Some("no quota"));
    assert_eq!(job.failed_step.as_deref(), Some("apply"));
    assert_eq!((job.failure, job.finished_at), (Some(Failure::Reported), Some(at(9))));

    let presumed = Row::FailedPresumed.job();
    assert_eq!(presumed.error.as_deref(), Some("no heartbeat since 2027-01-15T08:00:01Z"));
    for column in [Kind::Provisioning, Kind::Running, Kind::Heartbeat] {
        let job = hear(Row::FailedPresumed, column).1.job.unwrap();
        assert_eq!((job.error, job.failed_step, job.failure), (None, None, None), "{column:?}");
        let beats = i32::from(column == Kind::Heartbeat);
        assert_eq!(job.heartbeat_count, beats, "{column:?}");
    }
    let (_, reported) = hear(Row::FailedPresumed, Kind::Failed);
    assert_eq!(reported.job.unwrap().error.as_deref(), Some("no quota"));
}

#[test]
fn a_silence_counts_only_if_its_witness_is_the_last_sign_of_life() {
    for row in [Row::Queued, Row::Provisioning] {
        let outcome = apply(Some(row.job()), &lost(9, Position { seq: 0, idx: 5 }), false);
        assert_eq!((outcome.effect, outcome.reason), (Effect::Ignored, Some(Reason::AliveSince)));
    }
}

#[test]
fn a_queued_job_that_nobody_took_says_so() {
    let (_, outcome) = hear(Row::Queued, Kind::Lost);
    let job = outcome.job.unwrap();
    assert_eq!(
        job.error.as_deref(),
        Some("still queued; nothing heard since 2027-01-15T08:00:01Z")
    );
    assert_eq!((job.failure, job.finished_at), (Some(Failure::Presumed), Some(at(9))));
}

#[test]
fn a_timeout_of_its_own_stays_with_the_job_and_counts_from_the_last_sign_of_life() {
    let with = |callback: Callback, timeout_s| Callback {
        heartbeat_timeout_s: Some(timeout_s),
        ..callback
    };
    // Whoever creates the job may name it; it counts from when the workflow begins.
    let job = fold(None, &[event(1, with(queued(), 7200))]).unwrap();
    assert_eq!((job.heartbeat_timeout_s, job.presume_at), (Some(7200), None));
    let job = fold(Some(job), &[event(2, of_run(provisioning(), 7, Some(1)))]).unwrap();
    assert_eq!(job.presume_at, Some(at(2 + 7200)));
    let job = fold(Some(job), &[event(3, heartbeat())]).unwrap();
    assert_eq!(job.presume_at, Some(at(3 + 7200)));

    // What a workflow says later wins, but neither a late `queued` nor what changes nothing.
    let job = fold(Some(job), &[event(4, with(heartbeat(), 60))]).unwrap();
    assert_eq!((job.heartbeat_timeout_s, job.presume_at), (Some(60), Some(at(4 + 60))));
    for late in [queued(), provisioning()] {
        let job = fold(Some(job.clone()), &[event(5, with(late, 5))]).unwrap();
        assert_eq!(job.heartbeat_timeout_s, Some(60));
    }

    // No timeout runs while a job is finished, and it runs on after a revival and in a new run.
    for end in [event(5, running()), event(5, failed()), lost(5, witness(&job))] {
        let finished = fold(Some(job.clone()), &[end]).unwrap();
        assert_eq!((finished.heartbeat_timeout_s, finished.presume_at), (Some(60), None));
        let again = event(6, of_run(provisioning(), 7, Some(2)));
        assert_eq!(fold(Some(finished), &[again]).unwrap().presume_at, Some(at(6 + 60)));
    }
    let revived = [lost(5, witness(&job)), event(6, heartbeat())];
    assert_eq!(fold(Some(job), &revived).unwrap().presume_at, Some(at(6 + 60)));
}

#[test]
fn a_reported_failure_is_reopened_only_by_provisioning_without_an_attempt() {
    let (old, run_again) = (Row::FailedReported.job(), event(9, provisioning()));
    let outcome = apply(Some(old), &run_again, false);
    assert_eq!((outcome.effect, outcome.reason), (Effect::Applied, Some(Reason::ReRun)));
    let job = outcome.job.unwrap();
    assert_eq!((job.status, job.error, job.started_at), (Status::Provisioning, None, Some(at(9))));

    let same_id =
        apply(Some(Row::FailedReported.job()), &event(9, of_run(provisioning(), 7, None)), false);
    assert_eq!(same_id.to, Some(Status::Provisioning));
    let named = apply(
        Some(Row::FailedReported.job()),
        &event(9, of_run(provisioning(), 7, Some(1))),
        false,
    );
    assert_eq!(named.reason, Some(Reason::Finished));
}

#[test]
fn a_stale_run_changes_nothing_in_any_state() {
    for row in Row::ALL {
        let mut job = row.job();
        job.run_attempt = Some(2);
        for callback in [queued(), provisioning(), running(), failed(), heartbeat()] {
            for (run, attempt) in [(6, Some(9)), (6, None), (7, Some(1)), (-1, None)] {
                let stale = event(9, of_run(callback.clone(), run, attempt));
                let outcome = apply(Some(job.clone()), &stale, false);
                assert_eq!(outcome.job, Some(job.clone()));
                assert_eq!(
                    (outcome.effect, outcome.reason),
                    (Effect::Ignored, Some(Reason::StaleRun))
                );
            }
        }
    }
}

#[test]
fn a_new_run_starts_afresh_in_every_state() {
    for row in Row::ALL {
        for (run, attempt) in [(7, Some(2)), (8, Some(1)), (8, None)] {
            for (callback, status) in [
                (queued(), Status::Queued),
                (provisioning(), Status::Provisioning),
                (running(), Status::Running),
                (failed(), Status::Failed),
                (heartbeat(), Status::Queued),
            ] {
                let new = event(9, of_run(callback.clone(), run, attempt));
                let outcome = apply(Some(row.job()), &new, false);
                assert_eq!(outcome.reason, Some(Reason::NewRun), "{row:?} hears {callback:?}");
                let job = outcome.job.unwrap();
                assert_eq!(job.status, status, "{row:?} hears {callback:?}");
                assert_eq!(job.workflow_run_id, Some(run.to_string()));
                assert_eq!((job.run_attempt, job.run_count), (attempt, 2));
                let is_failed = status == Status::Failed;
                assert_eq!(job.error.is_some(), is_failed);
                assert_eq!(job.failure.is_some(), is_failed);
            }
        }
    }
}

#[test]
fn the_first_run_that_a_job_hears_of_is_adopted() {
    let named = fold(None, &[event(1, of_run(queued(), 7, Some(1)))]).unwrap();
    assert_eq!((named.run_attempt, named.run_count), (Some(1), 1));

    let unnamed = fold(None, &[event(1, queued()), event(2, heartbeat())]).unwrap();
    let outcome = apply(Some(unnamed), &event(3, of_run(heartbeat(), 7, Some(3))), false);
    let job = outcome.job.unwrap();
    assert_eq!(job.workflow_run_id.as_deref(), Some("7"));
    assert_eq!((job.run_attempt, job.run_count), (Some(3), 1));

    let unchanged = fold(None, &[event(1, provisioning())]).unwrap();
    let outcome = apply(Some(unchanged), &event(2, of_run(provisioning(), 7, None)), false);
    assert_eq!(outcome.job.unwrap().workflow_run_id.as_deref(), Some("7"));

    // On a finished job only `provisioning` is: it is a new run.
    for end in [running(), failed()] {
        let finished = fold(None, &[event(1, provisioning()), event(2, end)]).unwrap();
        for late in [running(), failed(), heartbeat()] {
            let outcome = apply(Some(finished.clone()), &event(3, of_run(late, 7, None)), false);
            let job = outcome.job.unwrap();
            if outcome.effect == Effect::Ignored {
                assert_eq!(job, finished);
                continue;
            }
            // The same status again, from a run that now is known: a late `provisioning` of it
            // does not reopen the job.
            assert_eq!((job.status, job.workflow_run_id.as_deref()), (finished.status, Some("7")));
            let late = apply(Some(job), &event(4, of_run(provisioning(), 7, None)), false);
            if finished.status == Status::Running {
                assert_eq!((late.to, late.reason), (Some(Status::Running), Some(Reason::Finished)));
            }
        }
        let job = fold(Some(finished), &[event(3, of_run(provisioning(), 7, None))]).unwrap();
        assert_eq!((job.status, job.run_count), (Status::Provisioning, 2));
        assert_eq!(job.workflow_run_id.as_deref(), Some("7"));
    }
}

#[test]
fn a_run_id_that_is_no_integer_means_the_current_run() {
    let mut odd = running();
    odd.workflow_run_id = Some("seven".into());
    let job = fold(Some(Row::Provisioning.job()), &[event(9, odd)]).unwrap();
    assert_eq!((job.status, job.workflow_run_id.as_deref()), (Status::Running, Some("7")));
}

#[test]
fn a_callback_without_a_run_is_marked_once_there_were_several() {
    let job = fold(Some(Row::FailedReported.job()), &[event(8, of_run(provisioning(), 8, None))]);
    let outcome = apply(job, &event(9, running()), false);
    assert_eq!((outcome.effect, outcome.reason), (Effect::Applied, Some(Reason::Unattributed)));
}

#[test]
fn a_duplicate_changes_nothing() {
    for row in Row::ALL {
        for callback in [queued(), provisioning(), running(), failed()] {
            let outcome = apply(Some(row.job()), &event(9, callback), true);
            assert_eq!(outcome.job, Some(row.job()));
            assert_eq!(
                (outcome.effect, outcome.reason),
                (Effect::Ignored, Some(Reason::Duplicate))
            );
        }
    }
}

#[test]
fn a_heartbeat_counts_only_if_it_was_sent_later_than_the_last() {
    let beat = |seq: i64, sent: i64| {
        let mut callback = heartbeat();
        callback.sent_at = Some(at(sent));
        event(seq, callback)
    };
    let mut job = fold(Some(Row::Provisioning.job()), &[beat(10, 9)]).unwrap();
    assert_eq!((job.heartbeat_count, job.last_heartbeat_at), (1, Some(at(10))));
    for old in [beat(11, 9), beat(12, 8)] {
        let outcome = apply(Some(job.clone()), &old, false);
        assert_eq!((outcome.changed, outcome.effect), (false, Effect::Ignored));
        assert!(!outcome.leaves_row(Kind::Heartbeat));
    }
    // A clock that is ahead counts as the stream's, so that it can't silence later heartbeats.
    job = fold(Some(job), &[beat(13, 1000), beat(14, 14)]).unwrap();
    assert_eq!((job.heartbeat_count, job.last_heartbeat_sent_at), (3, Some(at(14))));
    // Another run's clock is another clock.
    let Body::Callback(early) = beat(20, 3).body else { unreachable!() };
    job = fold(Some(job), &[event(20, of_run(early, 8, None))]).unwrap();
    assert_eq!((job.heartbeat_count, job.last_heartbeat_sent_at), (1, Some(at(3))));
}

#[test]
fn no_time_is_earlier_than_the_one_it_replaces() {
    let job = Row::Provisioning.job();
    let mut early = event(9, running());
    early.at = at(-50);
    let after = apply(Some(job.clone()), &early, false).job.unwrap();
    assert_eq!(after.updated_at, job.updated_at);
    assert_eq!(after.finished_at, Some(job.updated_at));
}
