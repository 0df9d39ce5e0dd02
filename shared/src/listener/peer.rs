//! Who a request came from.

use std::net::IpAddr;

use hyper::HeaderMap;

/// The header in which proxies name whom they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// How much of it is shown, in characters.
const MAX_SHOWN: usize = 200;

/// Who a request came from, by its connection: an extension of every request. Behind a load
/// balancer it is the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Whom the request's `X-Forwarded-For` names, as it was sent, escaped and cut to 200 characters. Any
/// client can send anything in it.
#[must_use]
pub fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    let mut shown = String::new();
    for value in headers.get_all(FORWARDED_FOR) {
        if !shown.is_empty() {
            shown.push_str(", ");
        }
        shown.extend(value.as_bytes().escape_ascii().take(MAX_SHOWN).map(char::from));
    }
    shown.truncate(MAX_SHOWN);
    (!shown.is_empty()).then_some(shown)
}

/// The last address in `X-Forwarded-For`: the one that the nearest proxy has added, if there is a
/// proxy that adds one.
#[must_use]
pub fn last_forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let value = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn what_is_forwarded_is_shown_within_bounds() {
        let shown = |values: &[&[u8]]| forwarded_for(&headers(values));
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&[b"10.0.0.1, ::1"]).unwrap(), "10.0.0.1, ::1");
        assert_eq!(shown(&[b"10.0.0.1", b"\xff\"\t"]).unwrap(), r#"10.0.0.1, \xff\"\t"#);
        assert_eq!(shown(&[&[b'x'; 500], b"y"]).unwrap(), "x".repeat(200));
    }

    #[test]
    fn the_nearest_proxy_has_the_last_word() {
        let last = |values: &[&[u8]]| last_forwarded(&headers(values));
        assert_eq!(last(&[b"10.0.0.1, 10.0.0.2"]), Some([10, 0, 0, 2].into()));
        assert_eq!(last(&[b"10.0.0.1", b"10.0.0.3"]), Some([10, 0, 0, 3].into()));
        for nothing in [&[][..], &[&b"unknown"[..]], &[b"10.0.0.1,"], &[b"10.0.0.1", b"x"]] {
            assert_eq!(last(nothing), None);
        }
    }
}
