use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::scheme::{Claim, NO_PREFIX, Prefix, standard_prefix};
use super::verify::judge as judge_claims;
use super::*;

const BODY: &[u8] = br#"{"job_id":"a"}"#;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn secret(text: &str) -> SigningKey {
    SigningKey::new(text.as_bytes()).unwrap()
}

fn keys_for(schemes: &[Scheme]) -> Keys {
    let secrets = [("old", "whsec_b2xk"), ("new", "n"), ("same as new", "n")];
    let secrets = secrets.map(|(id, text)| (id, secret(text)));
    Keys::new(secrets, schemes, ReplayWindow::for_tests())
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

fn verify_with(keys: &Keys, all: &[(&'static str, &str)]) -> Result<Verified, Refused> {
    verify(keys, &headers(all), Bytes::from_static(BODY), now())
}

fn judge(all: &[(&'static str, &str)]) -> Result<Verified, Refused> {
    verify_with(&keys_for(&Scheme::ALL), all)
}

fn plain(secret_text: &str) -> String {
    secret(secret_text).sign_plain(BODY)
}

fn standard(secret_text: &str) -> String {
    secret(secret_text).sign_standard("msg_1", now(), BODY)
}

const ID: (&str, &str) = (STANDARD_ID_HEADER, "msg_1");
const AT: (&str, &str) = (STANDARD_TIMESTAMP_HEADER, "1700000000");

#[test]
fn every_scheme_is_verified_with_every_key_and_the_first_that_fits_is_named() {
    for (with, named) in [("whsec_b2xk", "old"), ("n", "new")] {
        let (plain, standard) = (plain(with), standard(with));
        let github = format!("sha256={plain}");
        let upper = plain.to_uppercase();
        for (scheme, all) in [
            (Scheme::Plain, &[(PLAIN_HEADER, plain.as_str())][..]),
            (Scheme::Plain, &[(PLAIN_HEADER, &upper)]),
            (Scheme::GitHub, &[(GITHUB_HEADER, &github)]),
            (Scheme::Standard, &[ID, AT, (STANDARD_HEADER, &standard)]),
        ] {
            let verified = judge(all).unwrap();
            assert_eq!((verified.key(), verified.body().as_ref()), (named, BODY));
            assert_eq!(verified.signers().map(|(scheme, _)| scheme).collect::<Vec<_>>(), [scheme]);
            let is_standard = scheme == Scheme::Standard;
            assert_eq!(verified.id(), is_standard.then_some("msg_1"));
            assert_eq!(verified.signed_at(), is_standard.then(now));
        }
    }
    // Other secrets, and the secret of the other form.
    for wrong in ["x", "old"] {
        let (plain, standard) = (plain(wrong), standard(wrong));
        assert_eq!(judge(&[(PLAIN_HEADER, &plain)]), Err(Refused::Wrong));
        let judged = judge(&[ID, AT, (STANDARD_HEADER, &standard)]);
        assert_eq!(judged.is_ok(), wrong == "old", "decoded for Standard Webhooks only");
    }
    let no_keys =
        Keys::new(Vec::<(&str, SigningKey)>::new(), &Scheme::ALL, ReplayWindow::for_tests());
    assert_eq!(verify_with(&no_keys, &[(PLAIN_HEADER, &plain("n"))]), Err(Refused::Wrong));
}

#[test]
fn a_signature_that_is_not_exactly_one_is_refused() {
    let good = plain("n");
    let malformed = |name, value: &str| {
        assert_eq!(judge(&[(name, value)]), Err(Refused::Malformed), "{name}: {value}");
    };
    for digits in [
        "",
        &good[..63],
        &good[..62],
        &format!("{good}0"),
        &format!("{good}00"),
        &format!("{good},{good}"),
        &format!("g{}", &good[1..]),
        &format!("0x{}", &good[2..]),
        &"\u{e9}".repeat(32),
    ] {
        malformed(PLAIN_HEADER, digits);
        malformed(GITHUB_HEADER, &format!("sha256={digits}"));
    }
    malformed(PLAIN_HEADER, &format!("sha256={good}"));
    for value in [good.as_str(), &format!("SHA256={good}"), &format!("sha1={}", &good[..40])] {
        malformed(GITHUB_HEADER, value);
    }
    let github = format!("sha256={good}");
    for (name, value) in [(PLAIN_HEADER, &good), (GITHUB_HEADER, &github)] {
        assert_eq!(judge(&[(name, value), (name, value)]), Err(Refused::Malformed));
        assert_eq!(judge(&[(name, value), (name, "")]), Err(Refused::Malformed));
    }
    assert_eq!(judge(&[]), Err(Refused::Missing));
    assert_eq!(judge(&[("x-signature-256", &good)]), Err(Refused::Missing));
    assert_eq!(judge(&[ID, AT]), Err(Refused::Missing));
    assert_eq!(judge(&[(PLAIN_HEADER, &"0".repeat(64))]), Err(Refused::Wrong));
    let other = verify(
        &keys_for(&Scheme::ALL),
        &headers(&[(PLAIN_HEADER, &good)]),
        Bytes::from_static(b"other"),
        now(),
    );
    assert_eq!(other, Err(Refused::Wrong));
}

#[test]
fn a_standard_webhook_is_signed_with_its_id_and_its_time() {
    let good = standard("n");
    let with = |id: &str, at: &str, signature: &str| {
        judge(&[
            (STANDARD_ID_HEADER, id),
            (STANDARD_TIMESTAMP_HEADER, at),
            (STANDARD_HEADER, signature),
        ])
    };
    assert!(with("msg_1", "1700000000", &good).is_ok());
    assert_eq!(with("msg_2", "1700000000", &good), Err(Refused::Wrong));
    assert_eq!(with("msg_1", "1700000001", &good), Err(Refused::Wrong));
    // The header's very bytes are signed.
    assert_eq!(with("msg_1", "01700000000", &good), Err(Refused::Wrong));

    let long = "x".repeat(129);
    for id in ["", "a b", "{\"job_id\":\"a\"}", "a/b", "\u{e9}", &long] {
        assert_eq!(with(id, "1700000000", &good), Err(Refused::Malformed), "{id}");
    }
    for at in ["", "-1", "+1700000000", "1700000000.0", "now", "99999999999999999999"] {
        assert_eq!(with("msg_1", at, &good), Err(Refused::Malformed), "{at}");
    }
    let version_2 = good.replace("v1,", "v2,");
    let unpadded = good.trim_end_matches('=');
    let too_long = format!("{good}AAAA");
    for signature in ["", "v1", "v1,", unpadded, &too_long, &version_2, &good[3..], "v1, "] {
        let judged = with("msg_1", "1700000000", signature);
        assert_eq!(judged, Err(Refused::Malformed), "{signature}");
    }
    for all in [&[AT, (STANDARD_HEADER, good.as_str())][..], &[ID, (STANDARD_HEADER, &good)]] {
        assert_eq!(judge(all), Err(Refused::Malformed));
    }
    for twice in [ID, AT, (STANDARD_HEADER, &good)] {
        let judged = judge(&[ID, AT, (STANDARD_HEADER, &good), twice]);
        assert_eq!(judged, Err(Refused::Malformed), "{twice:?}");
    }
}

#[test]
fn any_of_several_standard_signatures_may_hold() {
    let (good, other) = (standard("n"), standard("x"));
    let with = |signatures: &[&str]| judge(&[ID, AT, (STANDARD_HEADER, &signatures.join(" "))]);
    assert!(with(&[&good, &other]).is_ok());
    assert!(with(&[&good, &good]).is_ok());
    assert!(with(&[&other, "v2,AAAA", "v1a,xyz", &good]).is_ok());
    assert_eq!(with(&[&other, &other]), Err(Refused::Wrong));
    // As many as a head holds.
    let many = vec![other.as_str(); 300];
    assert_eq!(with(&many), Err(Refused::Wrong));
    assert!(with(&[&many[..], &[&good]].concat()).is_ok());
}

#[test]
fn the_time_of_a_standard_webhook_is_within_the_window() {
    let keys = keys_for(&Scheme::ALL);
    for (offset, judged) in [(-300, None), (300, None), (-301, Some(Refused::Replay))] {
        let at = now() + TimeDelta::seconds(offset);
        let signature = secret("n").sign_standard("msg_1", at, BODY);
        let at = at.timestamp().to_string();
        let all = [ID, (STANDARD_TIMESTAMP_HEADER, &at), (STANDARD_HEADER, &signature)];
        assert_eq!(verify_with(&keys, &all).err(), judged, "{offset}");
        // A wrong signature of the wrong time is a wrong signature.
        let signature = secret("x").sign_standard("msg_1", now(), BODY);
        let all = [ID, (STANDARD_TIMESTAMP_HEADER, &at), (STANDARD_HEADER, &signature)];
        assert_eq!(verify_with(&keys, &all), Err(Refused::Wrong));
    }
}

#[test]
fn every_time_that_is_signed_is_within_the_window() {
    // A scheme that is not there yet: it signs its version and a time.
    let claim = |prefix: Prefix<'static>, at: DateTime<Utc>| Claim {
        scheme: Scheme::Plain,
        tags: vec![secret("n").tag(Scheme::Plain, prefix, BODY)],
        is_well_formed: true,
        prefix,
        signed_at: Some(at),
        id: None,
    };
    let old = now() - TimeDelta::seconds(301);
    let in_time = || claim([b"v0:", b"1700000000", b":", b""], now());
    let too_old = || claim([b"v0:", b"1699999699", b":", b""], old);
    for (claims, judged) in [
        (vec![in_time()], None),
        (vec![in_time(), in_time()], None),
        (vec![too_old()], Some(Refused::Replay)),
        (vec![in_time(), too_old()], Some(Refused::Replay)),
        (vec![too_old(), in_time()], Some(Refused::Replay)),
    ] {
        let what = format!("{claims:?}");
        let found = judge_claims(&keys_for(&Scheme::ALL), claims, BODY.into(), now());
        assert_eq!(found.err().map(|(refused, _)| refused), judged, "{what}");
    }
}

#[test]
fn every_signature_that_is_there_must_hold() {
    let (good, wrong) = (plain("n"), plain("x"));
    let (good_github, wrong_github) = (format!("sha256={good}"), format!("sha256={wrong}"));
    let (good_standard, wrong_standard) = (standard("whsec_b2xk"), standard("x"));
    let all = |plain, github, standard| {
        judge(&[
            (PLAIN_HEADER, plain),
            (GITHUB_HEADER, github),
            ID,
            AT,
            (STANDARD_HEADER, standard),
        ])
    };
    let verified = all(&good, &good_github, &good_standard).unwrap();
    let signers: Vec<_> = verified.signers().map(|(scheme, key)| (scheme, &**key)).collect();
    let expected = [(Scheme::Plain, "new"), (Scheme::GitHub, "new"), (Scheme::Standard, "old")];
    assert_eq!(signers, expected);
    assert_eq!(all(&wrong, &good_github, &good_standard), Err(Refused::Wrong));
    assert_eq!(all(&good, &wrong_github, &good_standard), Err(Refused::Wrong));
    assert_eq!(all(&good, &good_github, &wrong_standard), Err(Refused::Wrong));
    assert_eq!(all(&good, &good_github, "v1,"), Err(Refused::Malformed));
}

#[test]
fn one_signature_is_of_an_allowed_scheme_and_the_others_must_hold_too() {
    let (good, wrong) = (plain("n"), plain("x"));
    let github = format!("sha256={good}");
    for (schemes, all, judged) in [
        (&[Scheme::Plain][..], &[(PLAIN_HEADER, good.as_str())][..], Ok(())),
        (&[Scheme::GitHub], &[(PLAIN_HEADER, &good)], Err(Refused::Scheme)),
        (&[Scheme::GitHub, Scheme::Standard], &[(PLAIN_HEADER, &good)], Err(Refused::Scheme)),
        (&[Scheme::GitHub], &[(PLAIN_HEADER, &good), (GITHUB_HEADER, &github)], Ok(())),
        (
            &[Scheme::GitHub],
            &[(PLAIN_HEADER, &wrong), (GITHUB_HEADER, &github)],
            Err(Refused::Wrong),
        ),
        (&[Scheme::GitHub], &[(PLAIN_HEADER, &wrong)], Err(Refused::Wrong)),
        (
            &[Scheme::Standard],
            &[(PLAIN_HEADER, &good), (GITHUB_HEADER, &github)],
            Err(Refused::Scheme),
        ),
    ] {
        let keys = keys_for(schemes);
        assert_eq!(verify_with(&keys, all).map(|_| ()), judged, "{schemes:?}: {all:?}");
    }
}

#[test]
fn no_signed_text_of_one_scheme_passes_as_a_body_of_another() {
    // What Standard Webhooks signs, sent as a plain body with that very tag.
    let signature = standard("n");
    let text = [b"msg_1.1700000000.", BODY].concat();
    assert_eq!(
        secret("n").tag(Scheme::Plain, NO_PREFIX, &text),
        secret("n").tag(Scheme::Standard, standard_prefix("msg_1", b"1700000000"), BODY),
        "{signature}"
    );
    assert!(shared::callback::parse(&text).is_err(), "begins with an id, which is no JSON object");
}
