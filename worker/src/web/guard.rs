//! Checks who asks, and whom a request is meant for.
//!
//! Loopback alone is no protection: any page in a browser on the same machine can send requests to
//! it, and through a name that it controls (DNS rebinding) even read the answers. So without a
//! token only names of loopback are answered, and no page of another origin can change anything.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use shared::listener::Peer;
use url::Url;

use super::attempts::Origin;
use super::problem::Problem;
use super::settings::COOKIE;
use super::state::Web;
use super::{answer, console};

/// Nothing is loaded from elsewhere, only our own files run, and nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; \
                      base-uri 'none'";

/// Makes a browser forget the cookie [`COOKIE`].
const NO_COOKIE: HeaderValue =
    HeaderValue::from_static("ackline_session=; Max-Age=0; HttpOnly; SameSite=Lax; Path=/");

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Not `no-referrer`: a browser would then hide the origin of our own forms as well.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Admits a request, or answers why not.
pub(super) async fn check(State(web): State<Web>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match admit(&web, &request) {
        Ok(()) => next.run(request).await,
        Err(Refused::Problem(problem)) => answer::answer(&path, problem),
        Err(Refused::Unknown) => {
            let mut response = if path.starts_with("/api/") {
                let detail = "show the token: Authorization: Bearer …";
                Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
            } else {
                Redirect::to(&console::login_path(request.uri())).into_response()
            };
            if session(request.headers()).is_some() {
                // A browser would show it again with each request.
                response.headers_mut().insert(header::SET_COOKIE, NO_COOKIE);
            }
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    response
}

#[derive(Debug)]
enum Refused {
    Problem(Problem),
    /// No token, or a wrong one.
    Unknown,
}

fn admit(web: &Web, request: &Request) -> Result<(), Refused> {
    let forbidden = |detail: &str| Refused::Problem(Problem::new(StatusCode::FORBIDDEN, detail));
    let headers = request.headers();
    let host = host(request)
        .ok_or_else(|| Refused::Problem(Problem::bad("exactly one sound Host must be named")))?;
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_change && !is_same_origin(headers, &host) {
        return Err(forbidden("nothing is changed for a page of another origin"));
    }
    let Some(token) = &web.settings.token else {
        return if is_loopback(&host) {
            Ok(())
        } else {
            Err(forbidden(
                "without a token only names of this machine are answered, such as localhost; to \
                 be reached by another name, set CONSOLE_TOKEN_FILE",
            ))
        };
    };
    if console::is_open(request.uri().path()) {
        return Ok(());
    }
    let (shown, kept) = (bearer(headers), session(headers));
    if shown.is_none() && kept.is_none() {
        return Err(Refused::Unknown);
    }
    let is_known = || {
        shown.is_some_and(|shown| token.is(shown))
            || kept.is_some_and(|kept| token.is_session(kept))
    };
    let peer = request.extensions().get().copied();
    match compare(web, peer, headers, is_known) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused::Unknown),
        Err(problem) => Err(Refused::Problem(problem)),
    }
}

/// Compares what a request shows with the token, unless too many wrong ones came from its address.
pub(super) fn compare(
    web: &Web,
    peer: Option<Peer>,
    headers: &HeaderMap,
    is_known: impl FnOnce() -> bool,
) -> Result<bool, Problem> {
    let Peer(peer) = peer.unwrap_or(Peer(Ipv4Addr::UNSPECIFIED.into()));
    let origin = Origin::new(peer, headers);
    web.attempts.admit(origin).map_err(Problem::too_many_tokens)?;
    let is_known = is_known();
    if !is_known {
        web.attempts.failed(origin, peer, headers);
    }
    Ok(is_known)
}

/// The host that the request names; none if it names no host, or several.
fn host(request: &Request) -> Option<Url> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let (host, None) = (named.next()?.to_str().ok()?, named.next()) else { return None };
    if request.uri().authority().is_some_and(|authority| authority.as_str() != host) {
        return None;
    }
    let url = Url::parse(&format!("http://{host}/")).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    (is_plain && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

fn is_loopback(host: &Url) -> bool {
    match host.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Whether a change is requested by a page of ours, or by no page at all.
fn is_same_origin(headers: &HeaderMap, host: &Url) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return false;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let Some(origin) = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok()) else {
        return false;
    };
    // Behind a proxy that terminates TLS only the browser knows the scheme, and both leave out its
    // default port.
    let is_ours = origin.host() == host.host() && origin.port() == host.port();
    origins.next().is_none() && is_ours && matches!(origin.scheme(), "http" | "https")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = shown.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Adds an `ETag` of the answer's bytes, and answers 304 if the client has them already.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    let is_get = request.method() == Method::GET;
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_stream = kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"));
    if !is_get || is_stream || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..16]));
    let is_known = known.is_some_and(|known| matches(&known, &tag));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        head.headers.insert(header::ETAG, tag);
    }
    if is_known {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(header::CONTENT_TYPE);
        head.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(head, Body::from(Bytes::new()));
    }
    Response::from_parts(head, Body::from(bytes))
}

/// Whether `If-None-Match` contains this tag, by the weak comparison of RFC 9110.
fn matches(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == tag || one == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        let of = |name: &str| {
            let request = request(Method::GET, "/", &[("host", name)]);
            host(&request).map(|host| is_loopback(&host))
        };
        for name in
            ["localhost", "localhost:9081", "LOCALHOST", "a.localhost", "127.0.0.1:1", "[::1]:9"]
        {
            assert_eq!(of(name), Some(true), "{name}");
        }
        for name in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil"] {
            assert_eq!(of(name), Some(false), "{name}");
        }
        for name in ["", "localhost/x", "user@localhost", "localhost?x", "local host"] {
            assert_eq!(of(name), None, "{name}");
        }
        assert!(host(&request(Method::GET, "/", &[])).is_none());
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert!(host(&request(Method::GET, "/", &two)).is_none());
        let absolute = request(Method::GET, "http://evil.example/", &[("host", "localhost")]);
        assert!(host(&absolute).is_none());
    }

    #[test]
    fn a_change_is_for_our_own_pages_and_for_programs() {
        let asks = |headers: &[(&str, &str)]| {
            let host = Url::parse("http://localhost:9081").unwrap();
            is_same_origin(request(Method::POST, "/", headers).headers(), &host)
        };
        assert!(asks(&[]));
        assert!(asks(&[("origin", "http://localhost:9081")]));
        assert!(asks(&[("origin", "http://localhost:9081"), ("sec-fetch-site", "same-origin")]));
        for foreign in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "http://localhost:9082")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "http://localhost:9081"), ("origin", "http://evil.example")],
        ] {
            assert!(!asks(foreign), "{foreign:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let named = [("cookie", "a=b; ackline_session=kept ;c=d")];
        assert_eq!(session(request(Method::GET, "/", &named).headers()), Some("kept"));
        let other = [("cookie", "xackline_session=kept")];
        assert_eq!(session(request(Method::GET, "/", &other).headers()), None);
    }

    #[test]
    fn a_tag_is_found_in_a_list() {
        let has = |known: &str| matches(&HeaderValue::from_str(known).unwrap(), "\"x\"");
        assert!(has("\"x\"") && has("W/\"x\"") && has("\"y\", \"x\"") && has("*"));
        assert!(!has("\"y\"") && !has("x") && !has(""));
    }
}
