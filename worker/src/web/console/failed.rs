//! A page that cannot be shown.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use maud::html;

use super::layout;
use crate::web::problem::Problem;

/// The page that says what is wrong.
pub(in crate::web) fn page(problem: &Problem) -> Response {
    let body = html! {
        h1 { (problem.title()) }
        p.lead { (problem.detail()) }
        p { a href="/" { "To the overview" } }
    };
    let page = layout::page(problem.title(), layout::Section::Elsewhere, &body);
    let retry_after = problem.retry_after().map(|seconds| [(RETRY_AFTER, seconds)]);
    (problem.status(), retry_after, page).into_response()
}

/// What a page answers: itself, or what is wrong.
pub(super) struct Failed(pub(super) Problem);

impl<P: Into<Problem>> From<P> for Failed {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        page(&self.0)
    }
}

pub(super) type Page = Result<maud::Markup, Failed>;

pub(super) fn not_found(detail: &str) -> Failed {
    Failed(Problem::new(StatusCode::NOT_FOUND, detail))
}
