//! The pages for people: drawn here, whole without JavaScript, kept up to date with it.

mod assets;
mod chart;
mod dead_letters;
mod format;
mod job;
mod jobs;
mod layout;
mod login;
mod overview;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::html;

use super::Web;
use super::problem::Problem;

pub(super) use login::{is_open, login_path};

pub(super) fn router() -> Router<Web> {
    Router::new()
        .route("/", get(overview::page))
        .route("/jobs", get(jobs::page))
        .route("/job", get(job::page))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letter", get(dead_letters::show).post(dead_letters::decide))
        .route("/login", get(login::page).post(login::let_in))
        .route("/assets/console.css", get(assets::css))
        .route("/assets/console.js", get(assets::js))
        .route("/assets/icon.svg", get(assets::icon))
}

/// The page that says what is wrong.
pub(super) fn problem(problem: &Problem) -> Response {
    let body = html! {
        h1 { (problem.title()) }
        p.lead { (problem.detail()) }
        p { a href="/" { "To the overview" } }
    };
    let page = layout::page(problem.title(), layout::Section::Elsewhere, &body);
    (problem.status(), page).into_response()
}

/// What a page answers: itself, or what is wrong.
struct Failed(Problem);

impl<P: Into<Problem>> From<P> for Failed {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        problem(&self.0)
    }
}

type Page = Result<maud::Markup, Failed>;

fn not_found(detail: &str) -> Failed {
    Failed(Problem::new(StatusCode::NOT_FOUND, detail))
}
