//! What it costs to judge a signature, and that it costs the same whatever is wrong with it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ingress::signature::{
    GITHUB_HEADER, Keys, PLAIN_HEADER, ReplayWindow, STANDARD_HEADER, STANDARD_ID_HEADER,
    STANDARD_TIMESTAMP_HEADER, Scheme, SigningKey, verify,
};

fn headers(all: &[(&'static str, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn standard(secret: &SigningKey, at: DateTime<Utc>, body: &[u8]) -> HeaderMap {
    headers(&[
        (STANDARD_ID_HEADER, "msg_1".into()),
        (STANDARD_TIMESTAMP_HEADER, at.timestamp().to_string()),
        (STANDARD_HEADER, secret.sign_standard("msg_1", at, body)),
    ])
}

fn judge(criterion: &mut Criterion) {
    let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    let window = ReplayWindow { window: Duration::from_secs(300), require_timestamp: false };
    let secrets =
        ["one", "two", "three"].map(|text| (text, SigningKey::new(text.as_bytes()).unwrap()));
    let (last, other) = (secrets[2].1.clone(), SigningKey::new(b"other").unwrap());
    let keys = Keys::new(secrets, &Scheme::ALL, window);
    for size in [200, 64 * 1024] {
        let body = Bytes::from(vec![b'x'; size]);
        let good = last.sign_plain(&body);
        let cases = [
            ("plain, holds", headers(&[(PLAIN_HEADER, good.clone())])),
            ("plain, missing", HeaderMap::new()),
            ("plain, malformed", headers(&[(PLAIN_HEADER, good[1..].into())])),
            (
                "plain, repeated",
                headers(&[(PLAIN_HEADER, good.clone()), (PLAIN_HEADER, good.clone())]),
            ),
            ("plain, wrong", headers(&[(PLAIN_HEADER, other.sign_plain(&body))])),
            ("github, holds", headers(&[(GITHUB_HEADER, last.sign_github(&body))])),
            ("github, wrong", headers(&[(GITHUB_HEADER, other.sign_github(&body))])),
            ("standard, holds", standard(&last, now, &body)),
            ("standard, wrong", standard(&other, now, &body)),
            ("standard, too old", standard(&last, DateTime::UNIX_EPOCH, &body)),
        ];
        let mut group = criterion.benchmark_group("verify with three keys");
        group.throughput(Throughput::Bytes(size as u64));
        for (name, headers) in &cases {
            group.bench_with_input(BenchmarkId::new(*name, size), headers, |bencher, headers| {
                bencher.iter(|| verify(black_box(&keys), headers, body.clone(), now));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, judge);
criterion_main!(benches);
