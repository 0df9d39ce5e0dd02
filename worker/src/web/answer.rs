//! Errors in the form that suits the path: for programs under `/api/`, for people elsewhere.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::console::failed;
use super::problem::Problem;

pub(super) fn answer(path: &str, problem: Problem) -> Response {
    if path.starts_with("/api/") { problem.into_response() } else { failed::page(&problem) }
}

pub(super) fn not_found(request: &Request) -> Response {
    let problem = Problem::new(StatusCode::NOT_FOUND, "nothing is here");
    answer(request.uri().path(), problem)
}

pub(super) fn method_not_allowed(request: &Request) -> Response {
    let detail = format!("{} is not possible here: see Allow", request.method());
    answer(request.uri().path(), Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail))
}
