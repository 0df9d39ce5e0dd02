//! What is asked again and again costs what its answer is long, not what the tables are.

use chrono::{DateTime, TimeDelta, Utc};
use e2e::plan::Plan;
use e2e::postgres::Postgres;
use e2e::silence_fixture::{MAX, PARTITIONS, SilenceFixture, limits};
use e2e::stack::Db;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use shared::partition::Layout;
use tempfile::TempDir;
use worker::entity::job::Status;
use worker::store::connection::{DatabaseUrl, Purpose, connect};
use worker::store::dead_letters::{self, LetterFilter};
use worker::store::observe::{self, Count, Reach};
use worker::store::read::{self, JobFilter, JobKey, Range};
use worker::store::{liveness, prune, schema};

use crate::expect::on_each_database;

const FINISHED: u64 = 20_000;
const ALIVE: u64 = 4_000;
const PATIENT: u64 = 16_000;
const LETTERS: u64 = 4_000;
/// A tenth of what is there, or less.
const REACH: Reach = Reach { unfinished: 320, finished: 1_600, letters: 160, patient: 160 };

/// A database with many jobs and dead letters, but no broker and no worker.
struct Database {
    url: DatabaseUrl,
    partitions: usize,
    // Last, so that nobody uses the files when they are removed.
    _postgres: Option<Postgres>,
    _dir: TempDir,
}

impl Database {
    async fn fill(db: Db) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let postgres = match db {
            Db::Postgres => Some(Postgres::start(dir.path()).await.unwrap()),
            Db::Sqlite => None,
        };
        let url = match &postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}?mode=rwc", dir.path().join("ackline.db").display()),
        };
        let url: DatabaseUrl = url.parse().unwrap();
        let partitions = u16::try_from(PARTITIONS).unwrap();
        let rows = connect(&url, Purpose::Migrate).await.unwrap();
        schema::migrate(&rows).await.unwrap();
        schema::create_partitions(&rows, Layout::new(1, partitions)).await.unwrap();
        // Nearly all letters are discarded, and those that wait are the last ones.
        rows.execute_unprepared(&format!(
            "INSERT INTO dead_letters (partition, seq, idx, state, reason, subject, payload, \
             received_at, refusals) \
             WITH RECURSIVE numbers (i) AS \
             (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {LETTERS}) \
             SELECT i % {PARTITIONS}, i, 0, CASE WHEN i < {LETTERS} - 1000 THEN 'discarded' \
             WHEN i % 100 < {PARTITIONS} THEN 'dead' ELSE 'held' END, '', '', '{{}}', \
             '2026-01-01T00:00:00+00:00', 1 FROM numbers"
        ))
        .await
        .unwrap();
        let fixture =
            SilenceFixture { finished: FINISHED, alive: ALIVE, patient: PATIENT, silent: 10 };
        fixture.fill(&rows).await.unwrap();
        rows.close().await.unwrap();
        Self { url, partitions: partitions.into(), _postgres: postgres, _dir: dir }
    }

    async fn connect(&self, purpose: Purpose) -> DatabaseConnection {
        connect(&self.url, purpose).await.unwrap()
    }
}

on_each_database!(counts_are_whole_up_to_their_limits);

async fn counts_are_whole_up_to_their_limits(db: Db) {
    let database = Database::fill(db).await;
    let rows = database.connect(Purpose::Look).await;
    let partitions = database.partitions;
    let of = async |reach| {
        let mut counts = Status::all().map(|status| (status, 0, false)).collect::<Vec<_>>();
        for counted in observe::jobs(&rows, partitions, reach).await.unwrap() {
            for (sum, (status, Count { number, more })) in counts.iter_mut().zip(counted.jobs) {
                assert_eq!(sum.0, status);
                *sum = (status, sum.1 + number, sum.2 | more);
            }
        }
        counts
    };
    let all = [
        (Status::Queued, 0, false),
        (Status::Provisioning, ALIVE + PATIENT + 10, false),
        (Status::Running, FINISHED, false),
        (Status::Failed, 0, false),
    ];
    assert_eq!(of(Reach::USUAL).await, all);
    let some = [
        (Status::Queued, 0, false),
        (Status::Provisioning, REACH.unfinished, true),
        (Status::Running, REACH.finished, true),
        (Status::Failed, 0, false),
    ];
    assert_eq!(of(REACH).await, some);

    let letters = async |reach| {
        let counted = observe::dead_letters(&rows, partitions, reach).await.unwrap();
        let dead: u64 = counted.iter().map(|letters| letters.dead.number).sum();
        let held: u64 = counted.iter().map(|letters| letters.held.number).sum();
        (dead, held, counted.iter().any(|letters| letters.dead.more || letters.held.more))
    };
    assert_eq!(letters(Reach::USUAL).await, (160, 840, false));
    let (dead, held, more) = letters(REACH).await;
    assert_eq!((held, more), (REACH.letters, true), "{dead} dead");

    // The silent ones, the oldest first, then those that may be silent for longer.
    let quietest = observe::quietest(&rows, partitions, Reach::USUAL, 12).await.unwrap();
    let ids: Vec<_> = quietest.iter().map(|job| job.id.as_str()).collect();
    assert!(ids[..2].iter().all(|id| id.starts_with("patient-")), "{ids:?}");
    let oldest = observe::jobs(&rows, partitions, REACH).await.unwrap();
    let oldest = oldest.iter().filter_map(|counted| counted.oldest).min();
    assert_eq!(oldest, Some(quietest[0].updated_at));
}

on_each_database!(what_is_asked_again_and_again_reads_no_more_than_a_page);

async fn what_is_asked_again_and_again_reads_no_more_than_a_page(db: Db) {
    let database = Database::fill(db).await;
    let look = database.connect(Purpose::Look).await;
    let own = database.connect(Purpose::Own(std::time::Duration::from_secs(10))).await;
    let change = database.connect(Purpose::Change).await;
    let partitions = database.partitions;
    let now = read::now(&look).await.unwrap();
    let mut problems = Vec::new();
    let mut check = async |rows: &DatabaseConnection, what: &str, most, statement| {
        let plan = Plan::of(rows, &statement).await.unwrap();
        let is_whole = ["jobs", "dead_letters"].iter().any(|table| plan.reads_all_of(table));
        if is_whole || plan.sorts() || plan.read.is_some_and(|read| read > most) {
            problems.push(format!("{what}, of which {most} may be read: {plan:#?}"));
        }
    };

    let limits_of = |reach: Reach| 2 * (reach.unfinished + reach.finished) + reach.patient;
    // One more for each partition shows that there are more; and each partition's own row.
    let more = 8 * partitions as u64;
    check(
        &look,
        "a count",
        limits_of(REACH) + more,
        observe::jobs_statement(&look, partitions, REACH),
    )
    .await;
    let quietest = observe::quietest_statement(partitions, REACH, 5).unwrap();
    check(&look, "the quietest", REACH.patient + 5 * partitions as u64, quietest).await;
    let letters = observe::dead_letters_statement(partitions, REACH);
    check(&look, "a count of dead letters", 2 * REACH.letters + more, letters).await;

    for partition in [0, PARTITIONS - 1] {
        check(&own, "silent jobs", 3 * MAX, liveness::silent_statement(partition, limits(), MAX))
            .await;
        check(&own, "the first silence", 3, liveness::soonest_statement(partition)).await;
    }

    for (what, filter, after) in lists(now) {
        let range = Range { after: after.as_ref(), end: None };
        // Each of the four statuses has a range.
        let statement = read::jobs_statement(&filter, range, 51);
        check(&look, &format!("jobs, {what}"), 4 * 51, statement).await;
        let end = read::end_statement(&filter, after.as_ref(), 100);
        check(&look, &format!("the end of a search, {what}"), 4 * 100, end).await;
    }
    let search = JobFilter { search: Some("nothing".into()), ..JobFilter::default() };
    let end = JobKey { created_at: now - TimeDelta::seconds(10), id: String::new() };
    let range = Range { after: None, end: Some(&end) };
    check(&look, "a part of a search", 4_000, read::jobs_statement(&search, range, 51)).await;

    for (what, state, discarded) in [
        ("those that wait", None, false),
        ("all", None, true),
        ("dead ones", Some(worker::entity::dead_letter::State::Dead), false),
    ] {
        let filter = LetterFilter { job_id: None, state, discarded };
        let statement = dead_letters::list_statement(&filter, None, 51);
        check(&look, &format!("dead letters, {what}"), 2 * 51, statement).await;
    }

    for (what, cutoff, most) in [
        ("the first page", now - TimeDelta::seconds(1), 50),
        ("nothing is old enough", now - TimeDelta::days(30), 0),
    ] {
        let statement = prune::candidates_statement((0, Status::Running), cutoff, None, 50);
        // Jobs of the same moment are read together.
        check(&change, &format!("prune, {what}"), most + 20, statement).await;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The lists that the console, the API and the commands offer.
fn lists(now: DateTime<Utc>) -> Vec<(&'static str, JobFilter, Option<JobKey>)> {
    let all = JobFilter::default();
    let of = |status| JobFilter { status: Some(status), ..JobFilter::default() };
    let at = |seconds| now - TimeDelta::seconds(seconds);
    let from = JobFilter { created_from: Some(at(50)), ..all.clone() };
    let before = JobFilter { created_before: Some(at(10_000)), ..all.clone() };
    let both = JobFilter { created_from: Some(at(10_000)), ..before.clone() };
    let after = JobKey { created_at: at(10_000), id: "job".into() };
    vec![
        ("all", all.clone(), None),
        ("running", of(Status::Running), None),
        ("failed, of which there are none", of(Status::Failed), None),
        ("first heard of since then", from, None),
        ("first heard of before", before, None),
        ("first heard of in between", both, None),
        ("a page in the middle", all, Some(after.clone())),
        ("a page of one status", of(Status::Running), Some(after)),
    ]
}

on_each_database!(a_search_goes_on_where_it_stopped);

async fn a_search_goes_on_where_it_stopped(db: Db) {
    let database = Database::fill(db).await;
    let rows = database.connect(Purpose::Look).await;
    let silent = JobFilter { search: Some("SILENT-".into()), ..JobFilter::default() };
    // All silent jobs are a few minutes old, among others.
    for (limit, reach) in [(3, 100_000), (50, 700), (3, 700)] {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = read::job_page(&rows, &silent, after.as_ref(), limit, reach).await.unwrap();
            assert!(page.jobs.len() as u64 <= limit);
            found.extend(page.jobs.into_iter().map(|job| job.id));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let silent: Vec<String> = (0..10).map(|number| format!("silent-{number}")).collect();
        assert_eq!(found, silent, "{limit}, {reach}");
        assert!(reach > FINISHED || pages > 30, "{pages} pages");
    }
}

on_each_database!(prune_finds_each_old_job_once);

async fn prune_finds_each_old_job_once(db: Db) {
    let database = Database::fill(db).await;
    let rows = database.connect(Purpose::Change).await;
    let cutoff = read::now(&rows).await.unwrap() - TimeDelta::seconds(10_000);
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        let mut after = None;
        loop {
            let part = (partition, Status::Running);
            let page = prune::candidates(&rows, part, cutoff, after.as_ref(), 70).await.unwrap();
            let Some(last) = page.last().cloned() else { break };
            assert!(page.iter().all(|job| job.updated_at < cutoff));
            found.extend(page.into_iter().map(|job| job.id));
            after = Some(last);
        }
    }
    let count = found.len() as u64;
    assert_eq!(count, prune::count(&rows, cutoff).await.unwrap());
    assert!(count > 9_000, "{count}");
    found.sort();
    found.dedup();
    assert_eq!(found.len() as u64, count);
}
