//! Generated inputs that random bytes would hardly become.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};
use shared::bundle::{Entry, Metadata, decode};
use shared::callback::{Malformed, parse};
use shared::trace::TraceContext;

/// Damages a sound input in one place.
#[derive(Debug, Clone)]
enum Mutation {
    Cut(Index),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Self::Insert(at, new) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Flip(..) | Self::Remove(_) if bytes.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Mutation::Insert(at, new)),
        any::<Index>().prop_map(Mutation::Remove),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c0-9\u{0}\n\"\\\\ü😀]{0,8}", ".{0,260}"]
}

const KNOWN: [&str; 12] = [
    "job_id",
    "type",
    "status",
    "workflow_run_id",
    "run_attempt",
    "error",
    "failed_step",
    "agent_id",
    "region",
    "heartbeat_timeout_s",
    "event_id",
    "sent_at",
];
const SOUND: [&str; 6] =
    ["heartbeat", "queued", "provisioning", "running", "failed", "2026-11-23T10:00:00Z"];

/// What a field may hold: often what it should, or nearly.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => select(&SOUND[..]).prop_map(Value::from),
        2 => text().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => (-2..3_i32).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((text(), inner), 0..4).prop_map(|members| Map::from_iter(members).into()),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![4 => select(&KNOWN[..]).prop_map(str::to_owned), 1 => text()];
    let sound = [("job_id", "j"), ("status", "failed")].map(|(k, v)| (k.to_owned(), v.into()));
    vec((key, value()), 0..8).prop_map(move |more| sound.clone().into_iter().chain(more).collect())
}

fn entry() -> impl Strategy<Value = Entry> {
    let traceparent = any::<([u8; 16], [u8; 8], u8)>();
    let traceparent =
        traceparent.prop_map(|(trace, span, flags)| TraceContext::new(trace, span, flags));
    let metadata = (text(), text(), any::<i64>(), any::<Option<String>>(), traceparent);
    (metadata, vec(any::<u8>(), 0..64)).prop_map(
        |((job, key, received_ms, event_id, traceparent), body)| Entry {
            metadata: Metadata { event_id, traceparent, ..Metadata::new(job, key, received_ms) },
            body: body.into(),
        },
    )
}

/// A request's signature headers, often sound, as `fuzz::signature::check` reads them.
fn signatures() -> impl Strategy<Value = String> {
    let value = |sound: &'static str| prop_oneof![6 => Just(sound.to_owned()), 1 => "[ -~]{0,20}"];
    let field = prop_oneof![
        3 => value("{a}").prop_map(|value| format!("X-Signature:{value}")),
        2 => value("sha256={b}").prop_map(|value| format!("x-hub-signature-256: {value}")),
        4 => value("msg_1").prop_map(|value| format!("webhook-id: {value}")),
        2 => value("1700000000").prop_map(|value| format!("webhook-timestamp: {value}")),
        2 => (1_699_999_600..1_700_000_400_i64).prop_map(|at| format!("webhook-timestamp: {at}")),
        4 => vec(select(&["v1,<a>", "v1,<b>", "v1,{a}", "v1a,<a>", "v1,", ""][..]), 1..4)
            .prop_map(|values| format!("webhook-signature: {}", values.join(" "))),
        1 => Just(format!("x-signature: {}", "0".repeat(64))),
    ];
    vec(field, 0..7).prop_map(|fields| fields.join("\n"))
}

/// Adds a member to an object that, so many levels below, names a key twice, or two keys once.
fn nest(object: &Map<String, Value>, depth: usize, keys: [&str; 2]) -> String {
    let [first, second] = keys.map(Value::from);
    let mut inner = format!("{{{first}:1,\"between\":[],{second}:1}}");
    for level in 0..depth {
        inner = if level % 2 == 0 { format!("[0,{inner}]") } else { format!("{{\"in\":{inner}}}") };
    }
    let whole = Value::from(object.clone()).to_string();
    let open = whole.strip_suffix('}').unwrap();
    format!("{open},\"a key of its own\":{inner}}}")
}

proptest! {
    #[test]
    fn any_object_is_read_like_its_tree(object in object()) {
        fuzz::callback::check(Value::from(object).to_string().as_bytes());
    }

    #[test]
    fn a_damaged_object_is_read_like_its_tree(object in object(), damage in vec(mutation(), 1..4)) {
        let mut body = Value::from(object).to_string().into_bytes();
        damage.iter().for_each(|mutation| mutation.apply(&mut body));
        fuzz::callback::check(&body);
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_at_any_depth(
        object in object(),
        depth in 0..120_usize,
        key in "[^b]{0,9}",
    ) {
        let twice = nest(&object, depth, [&key, &key]);
        prop_assert_eq!(parse(twice.as_bytes()), Err(Malformed::Json));
        let once = nest(&object, depth, [&key, "b"]);
        prop_assert_ne!(parse(once.as_bytes()), Err(Malformed::Json));
        fuzz::callback::check(once.as_bytes());
    }

    #[test]
    fn any_callbacks_are_decoded_as_they_were_encoded(entries in vec(entry(), 1..8)) {
        prop_assert_eq!(decode(&fuzz::bundle::encode_all(&entries)), Ok(entries));
    }

    #[test]
    fn a_damaged_bundle_stays_within_its_bounds(
        entries in vec(entry(), 1..4),
        damage in vec(mutation(), 1..4),
    ) {
        let mut payload = fuzz::bundle::encode_all(&entries).to_vec();
        damage.iter().for_each(|mutation| mutation.apply(&mut payload));
        fuzz::bundle::check(&payload);
    }

    #[test]
    fn any_headers_are_judged_like_a_second_reading(headers in signatures(), body in ".{0,40}") {
        fuzz::signature::check(format!("{headers}\n\n{body}").as_bytes());
    }

    #[test]
    fn any_secrets_are_read_again(text in "([ab: #\r\n\t,=]|whsec_c2Vj|secret){0,20}") {
        fuzz::secrets::check(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..512)) {
        fuzz::callback::check(&bytes);
        fuzz::bundle::check(&bytes);
        fuzz::signature::check(&bytes);
        fuzz::secrets::check(&bytes);
    }
}
