//! The sign-in page: a browser presents the token once.

use axum::extract::State;
use axum::http::header::{ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;
use shared::listener::Peer;

use super::format::address;
use super::{failed, layout};
use crate::web::extractors::InQuery;
use crate::web::guard::compare;
use crate::web::settings::COOKIE;
use crate::web::state::Web;

/// Whether a path needs no token.
pub(in crate::web) fn is_open(path: &str) -> bool {
    path == "/login" || path.starts_with("/assets/")
}

/// Where to send somebody who wanted this page.
pub(in crate::web) fn login_path(wanted: &Uri) -> String {
    let wanted = wanted.path_and_query().map_or("/", |wanted| wanted.as_str());
    address("/login", &[("next", wanted)])
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    next: String,
}

pub(super) async fn page(InQuery(asked): InQuery<Asked>) -> Markup {
    form(own_page(&asked.next), false)
}

fn form(next: &str, is_wrong: bool) -> Markup {
    let body = html! {
        h1 { "Sign in" }
        form.login method="post" action="/login" {
            input type="hidden" name="next" value=(next);
            label {
                span { "Token" }
                input type="password" name="token" required autocomplete="current-password"
                    aria-invalid=[is_wrong.then_some("true")] aria-describedby="hint";
            }
            p #hint {
                @if is_wrong { strong role="alert" { "That is not the token. " } }
                "It is in the file that " code { "CONSOLE_TOKEN_FILE" } " names."
            }
            button { "Sign in" }
        }
    };
    layout::page("Sign in", layout::Section::Elsewhere, &body)
}

#[derive(Deserialize)]
pub(super) struct Shown {
    token: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn let_in(
    State(web): State<Web>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Form(shown): Form<Shown>,
) -> Response {
    let Some(token) = &web.settings.token else { return Redirect::to("/").into_response() };
    let peer = peer.map(|Extension(peer)| peer);
    let is_right = compare(&web, peer, &headers, || token.is(shown.token.trim()));
    let is_right = match is_right {
        Ok(is_right) => is_right,
        Err(problem) => return failed::page(&problem),
    };
    if !is_right {
        return (StatusCode::UNAUTHORIZED, form(own_page(&shown.next), true)).into_response();
    }
    // Behind a proxy that terminates TLS only the browser knows that.
    let is_secure =
        headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Lax; Path=/{secure}", token.session());
    ([(SET_COOKIE, cookie)], Redirect::to(own_page(&shown.next))).into_response()
}

/// The wanted page if it is a path of ours, otherwise the overview. A second slash would begin a host
/// name, and browsers take `\` for a slash and drop control characters before they look for one.
fn own_page(wanted: &str) -> &str {
    let is_ours = wanted.starts_with('/')
        && !wanted.starts_with("//")
        && wanted.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours { wanted } else { "/" }
}
