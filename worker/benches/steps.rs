//! What the steps without I/O cost, from a callback's body to a folded batch.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use chrono::DateTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shared::bundle::{self, Metadata};
use shared::callback;
use shared::partition::Layout;
use worker::rules::batch::{Known, fold};
use worker::rules::event::{Incoming, Message, decode};
use worker::rules::known_refusals::KnownRefusals;
use worker::rules::transition::apply;

const CALLBACKS: usize = 100;
const BODY: &[u8] = br#"{"job_id":"0198c9a2-7f5e-7c41-9e4b-5a1f9f1f9d10","status":"provisioning","workflow_run_id":"18234567890","run_attempt":1,"event_id":"0f8fad5bd9cb469fa16570867728950e","sent_at":"2026-11-01T10:00:00Z"}"#;

fn one(criterion: &mut Criterion) {
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| callback::parse(black_box(BODY)).unwrap());
    });
    let job = callback::parse(BODY).unwrap().job_id;
    criterion.bench_function("partition", |bencher| {
        bencher.iter(|| Layout::new(1, 16).of_job(black_box(&job)));
    });
    let metadata = Metadata::new(job, "default", 1_700_000_000_000);
    criterion.bench_function("encode into a bundle", |bencher| {
        bencher.iter(|| bundle::encode(black_box(&metadata), BODY));
    });
    let bundle = bundle::encode(&metadata, BODY);
    criterion.bench_function("decode a bundle of one", |bencher| {
        bencher.iter(|| bundle::decode(black_box(&bundle)).unwrap());
    });
}

fn message(kind: &str, jobs: usize) -> Message {
    let entries = (0..CALLBACKS).map(|number| {
        let job = format!("job-{}", number % jobs);
        let body = serde_json::json!({
            "job_id": job, kind: if kind == "type" { "heartbeat" } else { "provisioning" },
            "event_id": format!("{number:032x}"), "workflow_run_id": "18234567890",
            "run_attempt": 1, "sent_at": 1_700_000_000 + number,
        });
        let metadata = Metadata::new(job, "default", 1_700_000_000_000);
        bundle::encode(&metadata, body.to_string().as_bytes())
    });
    Message {
        seq: 1,
        msg_id: None,
        is_end: false,
        version: Some(bundle::VERSION_HEADER.1.into()),
        subject: Layout::new(1, 1).first().callbacks_subject().into(),
        at: DateTime::from_timestamp(1_700_000_500, 0).unwrap(),
        payload: entries.collect::<Vec<_>>().concat().into(),
    }
}

fn decoded(kind: &str, jobs: usize) -> Vec<Incoming> {
    let decoded = decode(&message(kind, jobs), Layout::new(1, 1).first());
    assert!(decoded.iter().all(|incoming| incoming.event().is_some()));
    decoded
}

fn hundred(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a hundred callbacks");
    group.throughput(Throughput::Elements(CALLBACKS as u64));
    let waiting = message("status", CALLBACKS);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode(black_box(&waiting), Layout::new(1, 1).first()));
    });
    for (name, kind, jobs) in [
        ("fold: status callbacks of as many jobs", "status", CALLBACKS),
        ("fold: heartbeats of ten jobs", "type", 10),
    ] {
        let incoming = decoded(kind, jobs);
        group.bench_function(name, |bencher| {
            let known = || (Known::default(), KnownRefusals::default());
            let once =
                |(known, decided): (Known, KnownRefusals)| fold(known, &incoming, &decided, 0, 0);
            bencher.iter_batched(known, once, BatchSize::SmallInput);
        });
    }
    group.finish();

    let incoming = decoded("type", 1);
    let (first, second) = (incoming[0].event().unwrap(), incoming[1].event().unwrap());
    let job = apply(None, first, false).job.unwrap();
    criterion.bench_function("apply a heartbeat", |bencher| {
        let once = |job| apply(Some(job), black_box(second), false);
        bencher.iter_batched(|| job.clone(), once, BatchSize::SmallInput);
    });
}

criterion_group!(benches, one, hundred);
criterion_main!(benches);
