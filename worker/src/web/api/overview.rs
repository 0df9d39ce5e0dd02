//! The overview.

use axum::Json;
use axum::extract::State;

use super::page::Page;
use crate::observe::{PartitionState, Snapshot};
use crate::web::problem::{Problem, Wrong};
use crate::web::state::Web;

/// Everything that the overview shows, at most a few seconds old.
#[utoipa::path(
    get,
    path = "/api/v1/overview",
    responses(
        (status = 200, description = "The last snapshot.", body = Snapshot),
        Wrong
    )
)]
pub(super) async fn overview(State(web): State<Web>) -> Result<Json<Snapshot>, Problem> {
    web.backend()?;
    Ok(Json((*web.view.fresh().await).clone()))
}

/// All partitions, by number.
#[utoipa::path(
    get,
    path = "/api/v1/partitions",
    responses(
        (status = 200, description = "All of them.", body = Page<PartitionState>),
        Wrong
    )
)]
pub(super) async fn partitions(
    State(web): State<Web>,
) -> Result<Json<Page<PartitionState>>, Problem> {
    web.backend()?;
    Ok(Json(Page { items: web.view.fresh().await.partitions.clone(), next: None }))
}
