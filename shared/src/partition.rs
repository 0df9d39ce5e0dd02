//! Which partition a job belongs to.

use std::fmt;

use sha2::{Digest, Sha256};

/// The most partitions that a deployment can have: stream names carry two digits.
pub const MAX_PARTITIONS: u16 = 100;

/// The number of a partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// The partition with this number.
    ///
    /// # Panics
    /// If the number is [`MAX_PARTITIONS`] or higher: numbers come from a checked configuration.
    #[must_use]
    pub fn new(number: u16) -> Self {
        assert!(number < MAX_PARTITIONS, "partition {number} is out of range");
        Self(number)
    }

    /// All partitions of a deployment.
    pub fn all(partitions: u16) -> impl Iterator<Item = Self> {
        (0..partitions).map(Self::new)
    }

    /// The partition that a job belongs to, for ever: the first eight bytes of the SHA-256 of its
    /// id, as a big-endian number, modulo the number of partitions. `sha256sum` can check it.
    #[must_use]
    pub fn of_job(job_id: &str, partitions: u16) -> Self {
        let digest = Sha256::digest(job_id.as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        let number = u64::from_be_bytes(head) % u64::from(partitions);
        // A remainder of a u16 fits a u16.
        Self::new(number as u16)
    }

    /// The number, from 0.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The partition's stream: `CALLBACKS-07`.
    #[must_use]
    pub fn stream(self) -> String {
        format!("CALLBACKS-{self}")
    }

    /// The subject that ingress publishes to: `callbacks.07`.
    #[must_use]
    pub fn callbacks_subject(self) -> String {
        format!("callbacks.{self}")
    }

    /// The subject for what owners say: `internal.07`.
    #[must_use]
    pub fn internal_subject(self) -> String {
        format!("internal.{self}")
    }

    /// The subject for what operators decide: `orders.07`.
    #[must_use]
    pub fn orders_subject(self) -> String {
        format!("orders.{self}")
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_pinned() {
        // printf %s "$id" | sha256sum | cut -c1-16, modulo 16 and 7.
        for (id, of_16, of_7) in [
            ("", 4, 1),
            ("job-1", 10, 6),
            ("job-2", 9, 5),
            ("0b9f4f0c-7c37-4a3c-93cf-9d1d5f2c0a11", 0, 0),
            ("größe \"1\"", 11, 5),
        ] {
            assert_eq!(Partition::of_job(id, 16).number(), of_16, "{id:?} of 16");
            assert_eq!(Partition::of_job(id, 7).number(), of_7, "{id:?} of 7");
            assert_eq!(Partition::of_job(id, 1).number(), 0);
        }
    }

    #[test]
    fn jobs_spread_evenly() {
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            counts[usize::from(Partition::of_job(&format!("job-{n}"), 16).number())] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn names_have_two_digits() {
        let partition = Partition::new(7);
        assert_eq!(partition.stream(), "CALLBACKS-07");
        assert_eq!(partition.callbacks_subject(), "callbacks.07");
        assert_eq!(partition.internal_subject(), "internal.07");
        assert_eq!(partition.orders_subject(), "orders.07");
        let all: Vec<_> = Partition::all(2).map(|one| one.to_string()).collect();
        assert_eq!(all, ["00", "01"]);
    }
}
