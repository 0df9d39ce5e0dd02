//! The overview: what runs, what failed, what is silent, and how far behind the workers are.

use axum::extract::State;
use maud::{Markup, html};

use super::failed::Page;
use super::format::{count, job_path, number, said, seconds, span, time};
use super::{chart, layout};
use crate::entity::job::Status;
use crate::observe::{PartitionState, Refusals, Sample, Snapshot};
use crate::store::observe::Count;
use crate::web::state::Web;

pub(super) async fn page(State(web): State<Web>) -> Page {
    web.backend()?;
    let snapshot = web.view.fresh().await;
    let body = html! {
        h1 { "Overview" }
        div #overview data-live="always" { (overview(&snapshot)) }
    };
    Ok(layout::page("Overview", layout::Section::Overview, &body))
}

fn overview(snapshot: &Snapshot) -> Markup {
    html! {
        @if !snapshot.problems.is_empty() {
            section.problems aria-label="Problems" {
                ul { @for problem in &snapshot.problems { li { (said(problem)) } } }
            }
        }
        @for (id, heading, content) in [
            ("jobs", "Jobs", jobs(snapshot)),
            ("flow", "Flow", flow(&snapshot.history)),
            ("partitions", "Partitions", partitions(snapshot)),
            ("refusals", "Refused requests", refusals(&snapshot.refusals)),
        ] {
            section aria-labelledby=(id) {
                h2 id=(id) { (heading) }
                (content)
            }
        }
        p.note { "As of " (time(snapshot.at)) " UTC" }
    }
}

fn jobs(snapshot: &Snapshot) -> Markup {
    let jobs = &snapshot.jobs;
    let letters = snapshot.dead_letters;
    html! {
        ul.tiles {
            @for status in Status::all() {
                li {
                    a href=(format!("/jobs?status={}", status.as_str())) {
                        strong { (count_or_more(jobs.of(status))) }
                        span class=(format!("status {}", status.as_str())) { (status.as_str()) }
                    }
                }
            }
            li {
                a class=[(letters.dead > 0).then_some("alarm")] href="/dead-letters" {
                    strong { (count(letters.dead)) }
                    span { "dead letters" @if letters.more { " or more" } @if letters.held > 0 { ", " (count(letters.held)) " held behind" } }
                }
            }
        }
        @if !snapshot.quietest.is_empty() {
            h3 { "Silent for longest in provisioning" }
            ul.quietest {
                @for job in &snapshot.quietest {
                    li {
                        a href=(job_path(&job.id)) { (said(&job.id)) }
                        " for " (span(snapshot.at.signed_duration_since(job.updated_at)))
                    }
                }
            }
        }
    }
}

fn count_or_more(counted: Count) -> String {
    let more = if counted.more { "more than " } else { "" };
    format!("{more}{}", count(counted.number))
}

fn flow(history: &[Sample]) -> Markup {
    let of = |value: fn(&Sample) -> Option<f64>| history.iter().map(value).collect::<Vec<_>>();
    let rate = of(|sample| Some(sample.callbacks_per_second));
    let lag = of(|sample| sample.lag_messages.map(|lag| lag as f64));
    let latency = of(|sample| sample.accept_to_commit_seconds);
    let watched = match (history.first(), history.last()) {
        (Some(first), Some(last)) => last.at.signed_duration_since(first.at),
        _ => chrono::TimeDelta::zero(),
    };
    html! {
        div.charts {
            (chart::line("Callbacks applied a second", &rate, number))
            (chart::line("Messages waiting", &lag, number))
            (chart::line("Accepted to committed", &latency, seconds))
        }
        p.note { "Of all workers, over the last " (span(watched)) " that this one has watched." }
    }
}

fn partitions(snapshot: &Snapshot) -> Markup {
    let columns = [
        ("Partition", false),
        ("Owner", false),
        ("Waiting", true),
        ("For", true),
        ("Applied", true),
        ("Stream full", true),
        ("State", false),
    ];
    let rows = html! { @for state in &snapshot.partitions { (partition(state)) } };
    layout::table("Table: partitions", None, &columns, &rows)
}

fn partition(state: &PartitionState) -> Markup {
    let dash = || "–".to_owned();
    let full = state
        .stream
        .filter(|stream| stream.max_bytes > 0)
        .map(|stream| format!("{:.0} %", 100.0 * stream.bytes as f64 / stream.max_bytes as f64));
    html! {
        tr class=[state.stopped_reason.as_ref().map(|_| "alarm")] {
            th scope="row" { (format!("{:02}", state.partition)) }
            td { @match &state.owner { Some(owner) => (said(owner)), None => "nobody" } }
            td.number { (state.lag_messages.map_or_else(dash, count)) }
            td.number { (state.lag_seconds.map_or_else(dash, |lag| if lag > 0.0 { seconds(lag) } else { dash() })) }
            td.number { (count(u64::try_from(state.applied_callbacks).unwrap_or_default())) }
            td.number { (full.unwrap_or_else(dash)) }
            td {
                @match &state.stopped_reason {
                    Some(reason) => { strong { "stopped: " } (said(reason)) }
                    None if state.owner.is_none() => "waiting for a worker",
                    None => "in order",
                }
            }
        }
    }
}

fn refusals(refusals: &Refusals) -> Markup {
    if refusals.ingresses.is_empty() {
        return html! {
            p.note { "No ingress is asked, or none answers. Name their ops listeners in " code { "INGRESS_OPS" } "." }
        };
    }
    let columns = [("Reason", false), ("Requests", true)];
    let rows = html! {
        @for (reason, requests) in &refusals.by_reason {
            tr { th scope="row" { (said(&reason.replace('_', " "))) } td.number { (count(*requests)) } }
        }
    };
    html! {
        @if refusals.by_reason.is_empty() {
            p { "None." }
        } @else {
            (layout::table("Table: refused requests by reason", None, &columns, &rows))
        }
        p.note {
            "Since the " (count(refusals.ingresses.len() as u64)) " ingress process(es) started, beside "
            (count(refusals.accepted)) " accepted callbacks."
        }
    }
}
