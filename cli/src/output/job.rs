//! What is said of a job in a table or a line.

use worker::entity::job::{Failure, Model as Job};

pub(crate) fn status(job: &Job) -> String {
    let presumed = if job.failure == Some(Failure::Presumed) { " (presumed)" } else { "" };
    format!("{}{presumed}", job.status.as_str())
}

pub(crate) fn run_of(id: Option<&str>, attempt: Option<i32>) -> String {
    match (id, attempt) {
        (None, _) => "-".into(),
        (Some(id), None) => id.to_owned(),
        (Some(id), Some(attempt)) => format!("{id} #{attempt}"),
    }
}

pub(crate) fn failure(step: Option<&str>, error: Option<&str>) -> String {
    match (step, error) {
        (None, None) => "-".into(),
        (Some(step), None) => format!("in {step}"),
        (None, Some(error)) => error.to_owned(),
        (Some(step), Some(error)) => format!("in {step}: {error}"),
    }
}
