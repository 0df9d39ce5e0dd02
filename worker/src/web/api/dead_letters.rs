//! Dead letters: the list, one letter, and decisions about it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::search;
use super::page::{self, Page};
use super::schema::{DeadLetter, ListedDeadLetter};
use crate::apply::redrive::{self, Done, LetterId, OrderError};
use crate::entity::dead_letter::State as LetterState;
use crate::rules::event::Action;
use crate::store::dead_letters::{self, LetterFilter, Listed};
use crate::web::extractors::{InPath, InQuery};
use crate::web::problem::{Problem, Wrong};
use crate::web::state::Web;

/// How long an order is waited for.
const WAIT: Duration = Duration::from_secs(8);

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Only those of this job.
    #[param(max_length = 200, pattern = r"^[^\x00]*$")]
    job_id: Option<String>,
    /// Only those in this state; without one, those that are `dead` or `held`.
    #[param(inline)]
    state: Option<LetterState>,
    /// How many; by default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u64>,
    /// The `next` of the previous page.
    #[param(pattern = "^[0-9]{2}-[0-9]{1,9}-[0-9]{1,3}$")]
    after: Option<String>,
}

/// Dead letters, by position. Each has its payload under its own address only.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    params(List),
    responses(
        (status = 200, description = "A page of them.", body = Page<ListedDeadLetter>),
        Wrong
    )
)]
pub(super) async fn list(
    State(web): State<Web>,
    InQuery(asked): InQuery<List>,
) -> Result<Json<Page<ListedDeadLetter>>, Problem> {
    let limit = page::limit(asked.limit)?;
    let filter = LetterFilter {
        job_id: asked.job_id.map(search).transpose()?,
        state: asked.state,
        discarded: false,
    };
    let after = asked.after.as_deref().map(place).transpose()?;
    let after = after.map(|place| (place.partition, place.position));
    let found = dead_letters::list(&web.backend()?.db, &filter, after, limit + 1).await?;
    let key = |letter: &Listed| LetterId::of_listed(letter).in_address();
    Ok(Json(Page::new(found, limit, key, ListedDeadLetter::from)))
}

pub(crate) fn place(text: &str) -> Result<LetterId, Problem> {
    text.parse()
        .map_err(|_| Problem::bad(format!("{text:?} is not PARTITION-SEQUENCE-INDEX like 03-17-0")))
}

/// One dead letter.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/{position}",
    params(("position" = String, Path, description = "PARTITION-SEQUENCE-INDEX", pattern = "^[0-9]{2}-[0-9]{1,9}-[0-9]{1,3}$", example = "00-1-0")),
    responses(
        (status = 200, description = "The dead letter.", body = DeadLetter),
        (status = 404, description = "Nothing is there.", body = Problem, content_type = "application/problem+json"),
        Wrong
    )
)]
pub(super) async fn show(
    State(web): State<Web>,
    InPath(position): InPath<String>,
) -> Result<Json<DeadLetter>, Problem> {
    let letter = redrive::existing(&web.backend()?.db, place(&position)?).await?;
    Ok(Json(letter.into()))
}

/// The outcome of an order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Decided {
    /// The position of the dead letter.
    position: String,
    /// `applied`, `discarded`, `refused` (tried again, in vain), or `waiting` (no worker has reached
    /// the order yet; it takes effect when one does).
    outcome: &'static str,
    /// Why the database rejected it again.
    reason: Option<String>,
}

/// Try a dead letter again, and then what is held behind it, in order.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{position}/requeue",
    params(("position" = String, Path, description = "PARTITION-SEQUENCE-INDEX", pattern = "^[0-9]{2}-[0-9]{1,9}-[0-9]{1,3}$", example = "00-2-0")),
    responses(
        (status = 200, description = "It was carried out.", body = Decided),
        (status = 202, description = "No worker has reached the order yet.", body = Decided),
        (status = 404, description = "Nothing is there.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is held or discarded.", body = Problem, content_type = "application/problem+json"),
        Wrong
    )
)]
pub(super) async fn requeue(
    State(web): State<Web>,
    InPath(position): InPath<String>,
) -> Result<Response, Problem> {
    answer(&web, &position, Action::Requeue).await
}

/// Discard a dead letter, so that it never takes effect, and apply what is held behind it, in
/// order.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{position}/discard",
    params(("position" = String, Path, description = "PARTITION-SEQUENCE-INDEX", pattern = "^[0-9]{2}-[0-9]{1,9}-[0-9]{1,3}$", example = "00-1-0")),
    responses(
        (status = 200, description = "It was carried out.", body = Decided),
        (status = 202, description = "No worker has reached the order yet.", body = Decided),
        (status = 404, description = "Nothing is there.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is held or discarded.", body = Problem, content_type = "application/problem+json"),
        Wrong
    )
)]
pub(super) async fn discard(
    State(web): State<Web>,
    InPath(position): InPath<String>,
) -> Result<Response, Problem> {
    answer(&web, &position, Action::Discard).await
}

async fn answer(web: &Web, position: &str, action: Action) -> Result<Response, Problem> {
    let place = place(position)?;
    let (status, outcome, reason) = match order(web, place, action).await? {
        Done::Applied => (StatusCode::OK, "applied", None),
        Done::Discarded => (StatusCode::OK, "discarded", None),
        Done::Refused(reason) => (StatusCode::OK, "refused", Some(reason)),
        Done::Waiting(_) => (StatusCode::ACCEPTED, "waiting", None),
    };
    let decided = Decided { position: place.in_address(), outcome, reason };
    Ok((status, Json(decided)).into_response())
}

/// Gives an order, and logs it.
pub(crate) async fn order(web: &Web, place: LetterId, action: Action) -> Result<Done, Problem> {
    let _place = web.order()?;
    let backend = web.backend()?;
    let done = redrive::order(&backend.db, &backend.jetstream, place, action, WAIT).await?;
    tracing::info!(position = %place, ?action, ?done, "an operator decided about a dead letter");
    Ok(done)
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        let status = match error {
            OrderError::Database(error) => return error.into(),
            OrderError::NotThere(place) => {
                let detail = format!("there is no dead letter at {}", place.in_address());
                return Self::new(StatusCode::NOT_FOUND, detail);
            }
            OrderError::Discarded(_) | OrderError::Held { .. } => StatusCode::CONFLICT,
            OrderError::Stream(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
