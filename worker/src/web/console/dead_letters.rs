//! Dead letters: the list, one letter with its payload, and the decision about it.

use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::failed::{Failed, Page};
use super::format::{address, job_path, said, said_briefly, time};
use super::layout;
use crate::apply::redrive::{self, Done, LetterId};
use crate::entity::dead_letter::{Model, State as LetterState};
use crate::rules::event::Action;
use crate::store::dead_letters::{self, LetterFilter, Listed as Letter};
use crate::web::api::{Page as Listed, job_id, order, place};
use crate::web::extractors::InQuery;
use crate::web::problem::Problem;
use crate::web::state::Web;

const PAGE: u64 = 50;
/// The longest part of a reason on a line, in characters.
const BRIEF: usize = 120;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    job: String,
    #[serde(default)]
    after: String,
    /// The last decision, and the letter that it was about.
    #[serde(default)]
    done: String,
}

pub(super) async fn list(State(web): State<Web>, InQuery(asked): InQuery<Asked>) -> Page {
    let db = web.backend()?.db;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let job = given(asked.job).map(job_id).transpose()?;
    let after = given(asked.after).map(|after| place(&after)).transpose()?;
    let after = after.map(|place| (place.partition, place.position));
    let filter = LetterFilter { job_id: job.clone(), state: None, discarded: true };
    let found = dead_letters::list(&db, &filter, after, PAGE + 1).await?;
    let key = |letter: &Letter| LetterId::of_listed(letter).in_address();
    let Listed { items: letters, next } = Listed::new(found, PAGE, key, |letter| letter);
    let next = next.map(|after| {
        address("/dead-letters", &[("job", job.as_deref().unwrap_or_default()), ("after", &after)])
    });
    let body = html! {
        h1 { "Dead letters" }
        @if let Some(done) = said_done(&asked.done) { p.done role="status" { (done) } }
        p { "What could not be applied, and what is held behind it. Nothing of it is lost; the other jobs go on." }
        @if let Some(job) = &job {
            p { "Of the job " a href=(job_path(job)) { (said(job)) } ". " a href="/dead-letters" { "Show all" } }
        }
        div #letters data-live="checkpoint" {
            (table(&letters))
            nav.pages aria-label="Pages of the list" {
                @if let Some(next) = next { a rel="next" href=(next) { "Next" } }
            }
        }
    };
    Ok(layout::page("Dead letters", layout::Section::DeadLetters, &body))
}

fn table(letters: &[Letter]) -> Markup {
    if letters.is_empty() {
        return html! { p.lead { "There are none." } };
    }
    let columns = ["Message", "State", "Job", "Received", "Reason"].map(|name| (name, false));
    let rows = html! {
        @for letter in letters {
            tr {
                th scope="row" {
                    a href=(path(LetterId::of_listed(letter))) { (LetterId::of_listed(letter).to_string()) }
                }
                td { (letter.state.as_str()) }
                td { (job(letter.job_id.as_deref())) }
                td { (time(letter.received_at)) }
                td { (said_briefly(&letter.reason, BRIEF)) }
            }
        }
    };
    layout::table("Dead letters", None, &columns, &rows)
}

fn path(letter: LetterId) -> String {
    format!("/dead-letter?at={}", letter.in_address())
}

fn job(job: Option<&str>) -> Markup {
    match job {
        Some(job) => html! { a href=(job_path(job)) { (said(job)) } },
        None => html! { "–" },
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct At {
    at: String,
    /// The decision that the user is asked to confirm.
    #[serde(default)]
    confirm: String,
}

pub(super) async fn show(State(web): State<Web>, InQuery(at): InQuery<At>) -> Page {
    let db = web.backend()?.db;
    let letter = redrive::existing(&db, place(&at.at)?).await.map_err(Problem::from)?;
    let place = LetterId::of(&letter);
    let title = format!("Dead letter {place}");
    let body = html! {
        h1 { (title) }
        (choice(&letter, action(&at.confirm)))
        dl.facts {
            dt { "State" } dd { (letter.state.as_str()) }
            dt { "Reason" } dd { pre tabindex="0" { (said(&letter.reason)) } }
            dt { "Job" } dd { (job(letter.job_id.as_deref())) }
            dt { "Received" } dd { (time(letter.received_at)) }
            dt { "Subject" } dd { (said(&letter.subject)) }
            @if let Some(event_id) = &letter.event_id { dt { "Event id" } dd { (said(event_id)) } }
            dt { "Refused" } dd { (letter.refusals) " time(s)" }
            dt { "Payload" } dd { pre tabindex="0" { (said(&String::from_utf8_lossy(&letter.payload))) } }
        }
        p { a href="/dead-letters" { "To all dead letters" } }
    };
    Ok(layout::page(&title, layout::Section::DeadLetters, &body))
}

fn action(name: &str) -> Option<Action> {
    match name {
        "requeue" => Some(Action::Requeue),
        "discard" => Some(Action::Discard),
        _ => None,
    }
}

/// The two decisions, each of which needs a confirmation.
fn choice(letter: &Model, confirm: Option<Action>) -> Markup {
    if letter.state != LetterState::Dead {
        return html! {
            p.note {
                @if letter.state == LetterState::Held { "It is sound, and waits for an earlier callback of its job: decide about that one." }
                @else { "It was discarded, and is kept on record." }
            }
        };
    }
    let path = path(LetterId::of(letter));
    match confirm {
        None => html! {
            p.actions {
                a.button href=(format!("{path}&confirm=requeue")) { "Requeue…" }
                a.button.danger href=(format!("{path}&confirm=discard")) { "Discard…" }
            }
        },
        Some(action) => {
            let (name, question) = match action {
                Action::Requeue => (
                    "requeue",
                    "Try it again, and then what is held behind it, in order? Do so when the reason is mended.",
                ),
                Action::Discard => (
                    "discard",
                    "Let it take no effect for good, and apply what is held behind it? This can't be taken back.",
                ),
            };
            html! {
                form.confirm method="post" action="/dead-letter" {
                    p #question { (question) }
                    input type="hidden" name="at" value=(LetterId::of(letter).in_address());
                    p.actions {
                        button class=[(name == "discard").then_some("danger")] name="action" value=(name) aria-describedby="question" {
                            @if name == "requeue" { "Requeue" } @else { "Discard" }
                        }
                        a.button href=(path) { "Cancel" }
                    }
                }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Decision {
    at: String,
    action: String,
}

pub(super) async fn decide(
    State(web): State<Web>,
    Form(decision): Form<Decision>,
) -> Result<Response, Failed> {
    let place = place(&decision.at)?;
    let Some(action) = action(&decision.action) else {
        return Err(Failed(Problem::bad("action: must be requeue or discard")));
    };
    let address = place.in_address();
    Ok(match order(&web, place, action).await? {
        Done::Applied => Redirect::to(&format!("/dead-letters?done=applied.{address}")),
        Done::Discarded => Redirect::to(&format!("/dead-letters?done=discarded.{address}")),
        Done::Waiting(_) => Redirect::to(&format!("/dead-letters?done=waiting.{address}")),
        // The letter's page says why.
        Done::Refused(_) => Redirect::to(&format!("/dead-letter?at={address}")),
    }
    .into_response())
}

/// The last decision in words; none for a text that is not ours.
fn said_done(done: &str) -> Option<String> {
    let (what, at) = done.split_once('.')?;
    let place = place(at).ok()?;
    match what {
        "applied" => Some(format!("{place} is applied.")),
        "discarded" => Some(format!("{place} is discarded.")),
        "waiting" => Some(format!("No worker has reached {place} yet; one will.")),
        _ => None,
    }
}
