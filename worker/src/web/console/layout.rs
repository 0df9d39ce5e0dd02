//! The frame of all pages.

use maud::{DOCTYPE, Markup, html};

/// A page's entry in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Jobs,
    DeadLetters,
    Elsewhere,
}

/// A page. The content of an element with `data-live` and an id is kept up to date.
pub(super) fn page(title: &str, section: Section, body: &Markup) -> Markup {
    let link = |to: Section, path: &str, text: &str| {
        html! {
            a href=(path) aria-current=[(to == section).then_some("page")] { (text) }
        }
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Ackline" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/console.css";
                script src="/assets/console.js" type="module" {}
            }
            body {
                a.skip href="#main" { "To the content" }
                header {
                    a.brand href="/" { "Ackline" }
                    nav aria-label="Pages" {
                        (link(Section::Overview, "/", "Overview"))
                        (link(Section::Jobs, "/jobs", "Jobs"))
                        (link(Section::DeadLetters, "/dead-letters", "Dead letters"))
                    }
                    p #live role="status" {}
                }
                main #main tabindex="-1" { (body) }
            }
        }
    }
}

/// A table, which scrolls by itself where it is too wide. Of each column, whether it holds numbers.
pub(super) fn table(
    label: &str,
    class: Option<&str>,
    columns: &[(&str, bool)],
    rows: &Markup,
) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table class=[class] {
                thead {
                    tr {
                        @for (name, is_number) in columns {
                            th class=[is_number.then_some("number")] scope="col" { (name) }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}
