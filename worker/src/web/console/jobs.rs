//! The list of jobs.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::failed::{Failed, Page};
use super::format::{address, count, job_path, said, said_briefly, status, time, took};
use super::layout;
use crate::entity::job::{Model, Status};
use crate::store::read::{self, JobFilter, JobPage};
use crate::web::api::{key_of_job, read_key_of_job, search};
use crate::web::extractors::InQuery;
use crate::web::problem::Problem;
use crate::web::state::Web;

const PAGE: u64 = 50;
/// The longest part of an error on a line, in characters.
const BRIEF: usize = 80;
/// The periods that the list can be limited to, by name.
const WITHIN: [(&str, &str, TimeDelta); 4] = [
    ("1h", "last hour", TimeDelta::hours(1)),
    ("24h", "last 24 hours", TimeDelta::hours(24)),
    ("7d", "last 7 days", TimeDelta::days(7)),
    ("30d", "last 30 days", TimeDelta::days(30)),
];

/// The fields of the form; an empty field is none.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    search: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    within: String,
    #[serde(default)]
    after: String,
}

pub(super) async fn page(State(web): State<Web>, InQuery(asked): InQuery<Asked>) -> Page {
    let db = web.backend()?.db;
    #[expect(clippy::disallowed_methods, reason = "people ask for what is recent")]
    let now = Utc::now();
    let filter = asked.filter(now)?;
    let after = Some(asked.after.as_str()).filter(|after| !after.is_empty());
    let after = after.map(read_key_of_job).transpose()?;
    let found = read::job_page(&db, &filter, after.as_ref(), PAGE, read::SEARCHED).await?;
    let next = found.next.as_ref().map(key_of_job);
    let body = html! {
        h1 { "Jobs" }
        (form(&asked))
        div #list data-live="checkpoint" {
            (list(&found, now))
            nav.pages aria-label="Pages of the list" {
                @if after.is_some() { a href=(asked.path(None)) { "Newest" } }
                @if let Some(next) = &next { a rel="next" href=(asked.path(Some(next))) { "Older" } }
            }
        }
    };
    Ok(layout::page("Jobs", layout::Section::Jobs, &body))
}

impl Asked {
    fn filter(&self, now: DateTime<Utc>) -> Result<JobFilter, Failed> {
        let search = search(self.search.trim().to_owned())?;
        let status = match self.status.as_str() {
            "" => None,
            text => Some(text.parse::<Status>().map_err(Problem::bad)?),
        };
        let within = match self.within.as_str() {
            "" => None,
            text => {
                let known = WITHIN.iter().find(|(name, ..)| *name == text);
                Some(known.ok_or_else(|| Problem::bad("within: is not one of the list's"))?.2)
            }
        };
        Ok(JobFilter {
            status,
            search: Some(search).filter(|search| !search.is_empty()),
            created_from: within.map(|within| now - within),
            created_before: None,
        })
    }

    /// The URL of another page of the same list.
    fn path(&self, after: Option<&str>) -> String {
        address(
            "/jobs",
            &[
                ("search", &self.search),
                ("status", &self.status),
                ("within", &self.within),
                ("after", after.unwrap_or_default()),
            ],
        )
    }
}

fn form(asked: &Asked) -> Markup {
    html! {
        form.filter method="get" action="/jobs" role="search" {
            label {
                span { "Job or run" }
                input type="search" name="search" value=(asked.search) maxlength="200" autocomplete="off" spellcheck="false";
            }
            label {
                span { "Status" }
                select name="status" {
                    option value="" { "any" }
                    @for status in Status::all() {
                        option value=(status.as_str()) selected[status.as_str() == asked.status] { (status.as_str()) }
                    }
                }
            }
            label {
                span { "First heard of" }
                select name="within" {
                    option value="" { "at any time" }
                    @for (name, text, _) in WITHIN {
                        option value=(name) selected[name == asked.within] { (text) }
                    }
                }
            }
            button { "Show" }
        }
    }
}

fn list(found: &JobPage, now: DateTime<Utc>) -> Markup {
    if found.jobs.is_empty() {
        return html! {
            p.lead {
                @if found.next.is_some() {
                    "No job is like that among the " (count(read::SEARCHED)) " that were searched."
                } @else {
                    "No job is like that."
                }
            }
        };
    }
    let columns = ["Job", "Status", "First heard of", "Took", "Region", "Error"];
    let rows = html! { @for job in &found.jobs { (row(job, now)) } };
    layout::table("Jobs", Some("jobs"), &columns.map(|name| (name, false)), &rows)
}

fn row(job: &Model, now: DateTime<Utc>) -> Markup {
    html! {
        tr {
            th scope="row" { a href=(job_path(&job.id)) { (said(&job.id)) } }
            td { (status(job.status, job.failure)) }
            td { (time(job.created_at)) }
            td { (took(job, now).unwrap_or_else(|| "–".to_owned())) }
            td { @match &job.region { Some(region) => (said(region)), None => "–" } }
            td {
                @if let Some(step) = &job.failed_step { "in " (said_briefly(step, BRIEF)) @if job.error.is_some() { ": " } }
                @if let Some(error) = &job.error { (said_briefly(error, BRIEF)) }
            }
        }
    }
}
