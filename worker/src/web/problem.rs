//! Errors for programs, as RFC 9457 defines them.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sea_orm::DbErr;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// A problem, as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem; `about:blank` if the status says everything.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
    /// How many seconds to wait.
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

/// The errors that any operation may answer, for the OpenAPI document.
#[derive(Debug, IntoResponses)]
#[response(
    status = "default",
    description = "What is wrong.",
    content_type = "application/problem+json"
)]
#[expect(dead_code, reason = "only its description is read")]
pub(crate) struct Wrong(Problem);

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Unknown"),
            status: status.as_u16(),
            detail: detail.into(),
            retry_after_s: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn connecting() -> Self {
        Self::unavailable(
            "the worker is still connecting to the database and the broker: try again",
        )
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(crate) fn too_many_tokens(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000) as u64;
        let detail = format!(
            "too many wrong tokens came from this address, and this one was not compared: try again \
             in {seconds} s"
        );
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        Self { retry_after_s: Some(seconds), ..problem }
    }

    /// The value of `Retry-After`.
    pub(crate) fn retry_after(&self) -> Option<HeaderValue> {
        self.retry_after_s.map(HeaderValue::from)
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn title(&self) -> &'static str {
        self.title
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<DbErr> for Problem {
    fn from(error: DbErr) -> Self {
        // The client learns that it is the database. Only operators may learn more.
        tracing::warn!(%error, "the console's question to the database failed: {error}");
        Self::unavailable("the database does not answer: try again, and see the worker's log")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = self.retry_after();
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
