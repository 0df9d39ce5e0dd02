//! Refusals that the stream itself tells of.
//!
//! Whether a database refuses a callback can't be read from the stream, so that a replay into a
//! restored or an empty database would apply what the first one refused, although an operator has
//! decided about the dead letter since. The order that tells the decision is further ahead in the
//! stream than the callback, and names the refusal; an owner looks ahead for such orders before it
//! begins, and repeats the refusals that they name.

use std::collections::HashMap;

use super::event::{Order, Position};

/// Refusals by callback, and by which refusal of it, from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRefusals(HashMap<(Position, i32), String>);

impl KnownRefusals {
    /// Learns from an order of which refusal it speaks.
    pub fn learn(&mut self, order: &Order) {
        self.insert(order.target, order.refusal, order.reason.clone());
    }

    /// Takes a refusal as given.
    pub fn insert(&mut self, position: Position, refusal: i32, reason: String) {
        self.0.entry((position, refusal)).or_insert(reason);
    }

    /// Why the callback at a position, refused so often before, is refused again; none when
    /// nothing is known of that.
    #[must_use]
    pub fn reason(&self, position: Position, refusals: i32) -> Option<&str> {
        self.0.get(&(position, refusals + 1)).map(String::as_str)
    }

    /// How many refusals are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
