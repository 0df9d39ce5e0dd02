//! One job: its status, its heartbeats, and its timeline.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::failed::{Page, not_found};
use super::format::{address, said, span, status, time, time_or_dash, took};
use super::layout;
use crate::entity::job::{Model as Job, Status};
use crate::entity::job_event::Model as Event;
use crate::store::dead_letters::{self, LetterFilter};
use crate::store::read;
use crate::web::api::{job_id, key_of_event, read_key_of_event};
use crate::web::extractors::InQuery;
use crate::web::state::Web;

/// How many events are on a page.
const PAGE: u64 = 100;
/// How many dead letters of a job are counted.
const LETTERS: u64 = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    id: String,
    #[serde(default)]
    before: String,
}

pub(super) async fn page(State(web): State<Web>, InQuery(asked): InQuery<Asked>) -> Page {
    let id = job_id(asked.id)?;
    let db = web.backend()?.db;
    let before = Some(asked.before.as_str()).filter(|before| !before.is_empty());
    let before = before.map(read_key_of_event).transpose()?;
    let filter = LetterFilter { job_id: Some(id.clone()), ..LetterFilter::default() };
    let letters = dead_letters::list(&db, &filter, None, LETTERS).await?.len();
    let job = read::job(&db, &id).await?;
    if job.is_none() && letters == 0 {
        return Err(not_found("there is no such job; its callbacks may still be on their way"));
    }
    let mut events = read::events_before(&db, &id, before, PAGE + 1).await?;
    let has_more = events.len() > PAGE as usize;
    if has_more {
        events.remove(0);
    }
    #[expect(clippy::disallowed_methods, reason = "it is shown, and decides nothing")]
    let now = Utc::now();
    let partition = job.as_ref().map(|job| job.partition);
    let body = html! {
        h1 { "Job " (said(&id)) }
        div #job data-live="checkpoint" data-partition=[partition] {
            @if letters > 0 {
                p.problems {
                    (letters) " callback(s) of this job wait as "
                    a href=(address("/dead-letters", &[("job", &id)])) { "dead letters" }
                    "."
                }
            }
            @match &job {
                None => p.lead { "The job has no row yet." },
                Some(job) => {
                    (facts(job, &web, now))
                    (strip(job, now))
                }
            }
            section aria-labelledby="timeline" {
                h2 #timeline { "Timeline" }
                (timeline(&events, &web))
                @if has_more && let Some(first) = events.first() {
                    nav.pages aria-label="Pages of the timeline" {
                        a href=(address("/job", &[("id", &id), ("before", &key_of_event(first.seq, first.idx))])) { "Earlier" }
                    }
                }
            }
        }
    };
    Ok(layout::page(&format!("Job {id}"), layout::Section::Elsewhere, &body))
}

fn facts(job: &Job, web: &Web, now: DateTime<Utc>) -> Markup {
    let run = job.workflow_run_id.as_deref();
    let text = |value: &Option<String>| match value {
        Some(value) => said(value),
        None => html! { "–" },
    };
    html! {
        dl.facts {
            dt { "Status" } dd { (status(job.status, job.failure)) }
            @if let Some(step) = &job.failed_step { dt { "Failed step" } dd { (said(step)) } }
            @if let Some(error) = &job.error { dt { "Error" } dd { pre tabindex="0" { (said(error)) } } }
            dt { "Run" }
            dd { (run_of(run, job.run_attempt, web)) @if job.run_count > 1 { ", one of " (job.run_count) } }
            dt { "Agent" } dd { (text(&job.agent_id)) }
            dt { "Region" } dd { (text(&job.region)) }
            dt { "Queued" } dd { (time_or_dash(job.queued_at)) }
            dt { "Started" } dd { (time_or_dash(job.started_at)) }
            dt { "Finished" } dd { (time_or_dash(job.finished_at)) }
            @if let Some(took) = took(job, now) { dt { "Took" } dd { (took) } }
        }
    }
}

/// A run, with a link to its page if there is one.
fn run_of(run: Option<&str>, attempt: Option<i32>, web: &Web) -> Markup {
    let Some(id) = run else { return html! { "–" } };
    let text = html! { (said(id)) @if let Some(attempt) = attempt { " #" (attempt) } };
    match web.settings.run_url(run, attempt) {
        Some(url) => html! { a href=(url) rel="noreferrer" { (text) } },
        None => text,
    }
}

/// From the start of the run to its end, or to now: how long the workflow was heard, and how long
/// it has been silent since.
fn strip(job: &Job, now: DateTime<Utc>) -> Markup {
    let Some(started) = job.started_at else { return html! {} };
    let end = job.finished_at.unwrap_or(now).max(started);
    let heard = job.last_heartbeat_at.unwrap_or(started).clamp(started, end);
    let whole = end.signed_duration_since(started).max(TimeDelta::milliseconds(1));
    let share = |at: DateTime<Utc>| {
        100.0 * at.signed_duration_since(started).as_seconds_f64() / whole.as_seconds_f64()
    };
    let silence = end.signed_duration_since(heard);
    let last = match job.last_heartbeat_at {
        Some(_) => format!("the last one {} before {}", span(silence), end_of(job)),
        None => format!("none in {}", span(silence)),
    };
    let heartbeats = if job.heartbeat_count == 1 { "heartbeat" } else { "heartbeats" };
    let label = format!("{} {heartbeats}, {last}", job.heartbeat_count);
    html! {
        section aria-labelledby="heartbeats" {
            h2 #heartbeats { "Heartbeats" }
            figure.strip {
                svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=(label) {
                    rect.silent x="0" y="0" width="100" height="8" {}
                    rect.heard x="0" y="0" width=(format!("{:.2}", share(heard))) height="8" {}
                }
                figcaption { (label) @if job.status == Status::Provisioning {
                    "; presumed failed after " (match job.heartbeat_timeout_s {
                        Some(timeout) => format!("{timeout} s of silence"),
                        None => "the worker's timeout".to_owned(),
                    })
                } }
            }
        }
    }
}

fn end_of(job: &Job) -> &'static str {
    if job.finished_at.is_some() { "the end" } else { "now" }
}

fn timeline(events: &[Event], web: &Web) -> Markup {
    html! {
        @if events.is_empty() {
            p { "Nothing was said of it yet but heartbeats." }
        } @else {
            ol.timeline {
                @for event in events { (entry(event, web)) }
            }
        }
    }
}

fn entry(event: &Event, web: &Web) -> Markup {
    use crate::entity::job_event::{Effect, Kind};
    let kind = match event.kind {
        Kind::Lost => "silent for too long",
        Kind::Requeue => "an operator had a dead letter tried again",
        Kind::Discard => "an operator discarded a dead letter",
        said => said.as_str(),
    };
    let outcome = match event.outcome {
        // Whether the letter itself was applied is in its own entry.
        Effect::Applied if matches!(event.kind, Kind::Requeue | Kind::Discard) => "carried out",
        outcome => outcome.as_str(),
    };
    let place = format!("{:02}/{}/{}", event.partition, event.seq, event.idx);
    html! {
        li class=[(event.outcome == Effect::Ignored).then_some("ignored")] {
            p.when { (time(event.received_at)) }
            p.what {
                strong { (kind) }
                span.outcome { (outcome) @if let Some(reason) = &event.reason { ": " (said(reason)) } }
                @if let Some(to) = event.to_status && event.from_status != Some(to) {
                    span.change {
                        @if let Some(from) = event.from_status { (status(from, None)) " → " }
                        (status(to, None))
                    }
                }
            }
            @if let Some(step) = &event.failed_step { p { "in " (said(step)) } }
            @if let Some(error) = &event.error { pre tabindex="0" { (said(error)) } }
            p.note {
                @if event.workflow_run_id.is_some() {
                    "run " (run_of(event.workflow_run_id.as_deref(), event.run_attempt, web)) ", "
                }
                "message " (place)
                @if let Some(event_id) = &event.event_id { ", id " (said(event_id)) }
            }
        }
    }
}
