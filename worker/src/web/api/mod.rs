//! `/api/v1`: what the console shows, for programs.

mod dead_letters;
mod jobs;
mod overview;
mod page;
mod schema;
mod stream;

use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::Web;

pub(super) use dead_letters::{order, place};
pub(super) use jobs::{job_id, search};
pub(super) use page::{
    Page, event as read_key_of_event, job as read_key_of_job, of_event as key_of_event,
    of_job as key_of_job,
};

/// The head of the OpenAPI document.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Ackline",
        description = "Jobs, their events, partitions and dead letters, as the worker's database \
                       has them. All times are RFC 3339 in UTC."
    ),
    security((), ("token" = []))
)]
struct Document;

/// The paths, and the document that describes them.
pub(super) fn router() -> Router<Web> {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(overview::overview))
        .routes(routes!(overview::partitions))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::events))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show))
        .routes(routes!(dead_letters::requeue))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(stream::stream))
        .split_for_parts();
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_default().add_security_scheme("token", token);
    router.route(
        "/api/v1/openapi.json",
        axum::routing::get(move || std::future::ready(Json(document.clone()))),
    )
}
