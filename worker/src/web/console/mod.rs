//! The pages for people: drawn here, complete without JavaScript, kept up to date with it.

mod assets;
mod chart;
mod dead_letters;
pub(super) mod failed;
mod format;
mod job;
mod jobs;
mod layout;
mod login;
mod overview;

use axum::Router;
use axum::routing::get;

use super::state::Web;

pub(super) use login::{is_open, login_path};

pub(super) fn router() -> Router<Web> {
    Router::new()
        .route("/", get(overview::page))
        .route("/jobs", get(jobs::page))
        .route("/job", get(job::page))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letter", get(dead_letters::show).post(dead_letters::decide))
        .route("/login", get(login::page).post(login::let_in))
        .route("/assets/console.css", get(assets::css))
        .route("/assets/console.js", get(assets::js))
        .route("/assets/icon.svg", get(assets::icon))
}
