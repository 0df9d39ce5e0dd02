//! Jobs: the list, one, and its events.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared::callback::MAX_JOB_ID_BYTES;
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use super::page::{self, Page};
use super::schema::Job;
use crate::entity::job::{Model, Status};
use crate::entity::job_event::Model as Event;
use crate::store::read::{self, JobFilter};
use crate::web::extractors::{InPath, InQuery};
use crate::web::problem::{Problem, Wrong};
use crate::web::state::{Backend, Web};

/// How long a job is waited for, if it is not said.
const USUAL_WAIT: Duration = Duration::from_secs(30);
/// And at the most.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// Which jobs are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Only those of this status.
    #[param(inline)]
    status: Option<Status>,
    /// Only those whose id has this in it, whatever its case, or whose run's id it is.
    #[param(max_length = 200, pattern = r"^[^\x00]*$")]
    search: Option<String>,
    /// Only those that were first heard of at this time or later.
    created_from: Option<DateTime<Utc>>,
    /// Only those that were first heard of before.
    created_before: Option<DateTime<Utc>>,
    /// How many; 50 if it is not said.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u64>,
    /// The `next` of the page before.
    #[param(pattern = "^[0-9]{1,16}-([0-9a-f]{2}){0,200}$")]
    after: Option<String>,
}

/// Jobs, the newest first. A search looks at 500 000 jobs for a page, so a page may have fewer items
/// than its limit, or none, although `next` says that there is another.
#[utoipa::path(
    get,
    path = "/api/v1/jobs",
    params(List),
    responses(
        (status = 200, description = "A page of them.", body = Page<Job>),
        Wrong
    )
)]
pub(super) async fn list(
    State(web): State<Web>,
    InQuery(asked): InQuery<List>,
) -> Result<Json<Page<Job>>, Problem> {
    let limit = page::limit(asked.limit)?;
    let after = asked.after.as_deref().map(page::job).transpose()?;
    let filter = JobFilter {
        status: asked.status,
        search: asked.search.map(search).transpose()?.filter(|search| !search.is_empty()),
        created_from: asked.created_from,
        created_before: asked.created_before,
    };
    let db = web.backend()?.db;
    let found = read::job_page(&db, &filter, after.as_ref(), limit, read::SEARCHED).await?;
    Ok(Json(Page {
        items: found.jobs.into_iter().map(|job| Job::new(job, &web.settings)).collect(),
        next: found.next.as_ref().map(page::of_job),
    }))
}

/// Checks a text to search for.
pub(crate) fn search(text: String) -> Result<String, Problem> {
    if text.chars().count() > MAX_JOB_ID_BYTES || text.contains('\0') {
        let detail = format!("search: at most {MAX_JOB_ID_BYTES} characters, without NUL");
        return Err(Problem::bad(detail));
    }
    Ok(text)
}

/// Whether to wait for a job.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Show {
    /// How long to wait for `until`, such as `30s`; 60 s at the most. The job is answered as it is
    /// then, so look at its status. 30 s if only `until` is said.
    #[param(pattern = "^(([1-9]|[1-5][0-9]|60)s|[1-9][0-9]{0,3}ms)$")]
    wait: Option<String>,
    /// What to wait for: `finished`, which is `running` or `failed`; so it is if only `wait` is said.
    #[param(inline)]
    until: Option<Until>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Until {
    /// The workflow has succeeded or failed, or is presumed to have failed.
    Finished,
}

/// One job. With `wait` and `until`, as soon as it has finished; it need not be known yet.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job.", min_length = 1, max_length = 200, example = "job-1"), Show),
    responses(
        (status = 200, description = "The job.", body = Job),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        Wrong
    )
)]
pub(super) async fn show(
    State(web): State<Web>,
    InPath(id): InPath<String>,
    InQuery(asked): InQuery<Show>,
) -> Result<Json<Job>, Problem> {
    let id = job_id(id)?;
    let wait = match (asked.wait.as_deref(), asked.until) {
        (Some(text), _) => Some(wait(text)?),
        (None, Some(Until::Finished)) => Some(USUAL_WAIT),
        (None, None) => None,
    };
    let backend = web.backend()?;
    let job = match wait {
        None => read::job(&backend.db, &id).await?,
        Some(wait) => finished(&web, &backend, &id, wait).await?,
    };
    let job = job.ok_or_else(|| no_job(&id))?;
    Ok(Json(Job::new(job, &web.settings)))
}

fn wait(text: &str) -> Result<Duration, Problem> {
    let wait = shared::settings::duration(text).ok().filter(|wait| *wait <= MOST_WAIT);
    wait.ok_or_else(|| Problem::bad(format!("wait: {text:?} is not a duration like 30s up to 60s")))
}

/// Waits until the job has finished, or the time is over.
async fn finished(
    web: &Web,
    backend: &Backend,
    id: &str,
    wait: Duration,
) -> Result<Option<Model>, Problem> {
    let _permit = web.wait()?;
    let until = Instant::now() + wait;
    let mut snapshots = web.view.watch();
    loop {
        let job = read::job(&backend.db, id).await?;
        if job.as_ref().is_some_and(|job| job.status.is_finished()) {
            return Ok(job);
        }
        let next = web.ending.run_until_cancelled(timeout_at(until, snapshots.changed())).await;
        match next {
            Some(Ok(Ok(()))) => {}
            // The last look may be a second old.
            Some(Err(_)) => return Ok(read::job(&backend.db, id).await?),
            Some(Ok(Err(_))) | None => return Ok(job),
        }
    }
}

/// Checks the id of a job. What no job can be called is not looked for.
pub(crate) fn job_id(id: String) -> Result<String, Problem> {
    if !(1..=MAX_JOB_ID_BYTES).contains(&id.len()) || id.contains(char::is_control) {
        return Err(no_job(&id));
    }
    Ok(id)
}

pub(crate) fn no_job(id: &str) -> Problem {
    let detail = format!("there is no job {id:?}; its callbacks may still be on their way");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// Which events are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListEvents {
    /// How many; 50 if it is not said.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u64>,
    /// The `next` of the page before.
    #[param(pattern = "^[0-9]{1,15}-[0-9]{1,9}$")]
    after: Option<String>,
}

/// What each of a job's status callbacks did, oldest first. Heartbeats leave an event only where
/// they change the status.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}/events",
    params(("id" = String, Path, description = "The job.", min_length = 1, max_length = 200, example = "job-1"), ListEvents),
    responses(
        (status = 200, description = "A page of them.", body = Page<Event>),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        Wrong
    )
)]
pub(super) async fn events(
    State(web): State<Web>,
    InPath(id): InPath<String>,
    InQuery(asked): InQuery<ListEvents>,
) -> Result<Json<Page<Event>>, Problem> {
    let id = job_id(id)?;
    let limit = page::limit(asked.limit)?;
    let after = asked.after.as_deref().map(page::event).transpose()?;
    let db = web.backend()?.db;
    if read::job(&db, &id).await?.is_none() {
        return Err(no_job(&id));
    }
    let found = read::events_after(&db, &id, after, limit + 1).await?;
    Ok(Json(Page::new(found, limit, |event| page::of_event(event.seq, event.idx), |event| event)))
}
