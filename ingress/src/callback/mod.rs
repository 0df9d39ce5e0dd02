//! One request's way from its head to its answer.

mod body;
mod refusals;
mod verifier;

mod handler;

pub(crate) use self::handler::{Handler, refuse_unread};
