//! Refusals that the stream itself records.
//!
//! The stream does not tell whether a database rejects a callback. A replay into a restored or an
//! empty database would therefore apply what the first one rejected, although an operator has
//! decided about the dead letter since. The order with that decision comes later in the stream than
//! the callback, and names the refusal. An owner looks ahead for such orders before it begins, and
//! repeats the refusals that they name.

use std::collections::HashMap;

use super::event::{Incoming, Order, Position};

/// The reasons of refusals, by callback (its partition and its position there) and by the number of
/// its refusal, from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRefusals(HashMap<(i32, Position, i32), String>);

impl KnownRefusals {
    /// Learns the refusal that an order names.
    pub fn learn(&mut self, order: &Order) {
        self.insert(order.partition, order.target, order.refusal, order.reason.clone());
    }

    /// Adds a refusal.
    pub fn insert(&mut self, partition: i32, position: Position, refusal: i32, reason: String) {
        self.0.entry((partition, position, refusal)).or_insert(reason);
    }

    /// Why a callback is refused again; none if no such refusal is known.
    #[must_use]
    pub fn reason(&self, incoming: &Incoming) -> Option<&str> {
        let refusal = incoming.refusals + 1;
        self.0.get(&(incoming.partition, incoming.position, refusal)).map(String::as_str)
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
