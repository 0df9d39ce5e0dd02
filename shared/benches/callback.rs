//! What it costs to parse a callback, to find its partition, and to put it into a bundle and take it
//! out again.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shared::bundle::{self, Metadata};
use shared::callback;
use shared::partition::Partition;

const BODY: &[u8] = br#"{"job_id":"0198c9a2-7f5e-7c41-9e4b-5a1f9f1f9d10","status":"provisioning","workflow_run_id":"18234567890","run_attempt":1,"event_id":"0f8fad5bd9cb469fa16570867728950e","sent_at":"2026-11-01T10:00:00Z"}"#;

fn work(criterion: &mut Criterion) {
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| callback::parse(black_box(BODY)).unwrap());
    });
    let job = callback::parse(BODY).unwrap().job_id;
    criterion.bench_function("partition", |bencher| {
        bencher.iter(|| Partition::of_job(black_box(&job), 16));
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

criterion_group!(benches, work);
criterion_main!(benches);
