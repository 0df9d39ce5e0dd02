//! Which partition a job belongs to, and what its stream is called.

use std::fmt;

use sha2::{Digest, Sha256};

/// The most partitions that a deployment can have: stream names carry two digits.
pub const MAX_PARTITIONS: u16 = 100;
/// The generation of the streams of a new deployment.
pub const FIRST_GENERATION: u32 = 1;

/// A set of streams: a generation, and how many partitions it has. Jobs are moved to another set by
/// `ackline move`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layout {
    generation: u32,
    partitions: u16,
}

impl Layout {
    /// So many partitions in this generation.
    ///
    /// # Panics
    /// If there are none, or more than [`MAX_PARTITIONS`]: numbers come from a checked
    /// configuration.
    #[must_use]
    pub fn new(generation: u32, partitions: u16) -> Self {
        assert!((1..=MAX_PARTITIONS).contains(&partitions), "{partitions} partitions");
        Self { generation, partitions }
    }

    /// The generation, from [`FIRST_GENERATION`].
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(self) -> u16 {
        self.partitions
    }

    /// The partition with this number; none if there are not so many.
    #[must_use]
    pub fn partition(self, number: impl TryInto<u16>) -> Option<Partition> {
        let number = number.try_into().ok().filter(|number| *number < self.partitions)?;
        Some(Partition { layout: self, number })
    }

    /// The partition with number 0, which every generation has.
    #[must_use]
    pub fn first(self) -> Partition {
        Partition { layout: self, number: 0 }
    }

    /// All partitions.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.partitions).map(move |number| Partition { layout: self, number })
    }

    /// The partition that a job belongs to: the first eight bytes of the SHA-256 of its id, as a
    /// big-endian number, modulo the number of partitions. `sha256sum` can check it.
    #[must_use]
    pub fn of_job(self, job_id: &str) -> Partition {
        let digest = Sha256::digest(job_id.as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        let number = u64::from_be_bytes(head) % u64::from(self.partitions);
        // A remainder of a u16 fits a u16.
        Partition { layout: self, number: number as u16 }
    }
}

/// A partition of a [`Layout`]. It prints as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    layout: Layout,
    number: u16,
}

impl Partition {
    /// The set of streams that it belongs to.
    #[must_use]
    pub fn layout(self) -> Layout {
        self.layout
    }

    /// The number, from 0.
    #[must_use]
    pub fn number(self) -> u16 {
        self.number
    }

    /// The partition's stream: `CALLBACKS-1-07`.
    #[must_use]
    pub fn stream(self) -> String {
        format!("CALLBACKS-{}-{self}", self.layout.generation)
    }

    /// The subject that ingress publishes to: `callbacks.1.07`.
    #[must_use]
    pub fn callbacks_subject(self) -> String {
        format!("callbacks.{}.{self}", self.layout.generation)
    }

    /// The subject for what owners say: `internal.1.07`.
    #[must_use]
    pub fn internal_subject(self) -> String {
        format!("internal.{}.{self}", self.layout.generation)
    }

    /// The subject for what operators decide: `orders.1.07`.
    #[must_use]
    pub fn orders_subject(self) -> String {
        format!("orders.{}.{self}", self.layout.generation)
    }

    /// The subject on which ingresses say that they can publish: `ticks.1.07`. No stream keeps it.
    #[must_use]
    pub fn ticks_subject(self) -> String {
        format!("ticks.{}.{self}", self.layout.generation)
    }

    /// The only subject of a stream that is closed: `closed.1.07`.
    #[must_use]
    pub fn closed_subject(self) -> String {
        format!("closed.{}.{self}", self.layout.generation)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.number)
    }
}

/// The generation that a stream's name tells, if it is one of ours.
#[must_use]
pub fn generation_of(stream: &str) -> Option<u32> {
    let (generation, number) = stream.strip_prefix("CALLBACKS-")?.split_once('-')?;
    let generation: u32 = generation.parse().ok()?;
    let partition =
        Layout::new(generation, MAX_PARTITIONS).partition(number.parse::<u16>().ok()?)?;
    (partition.stream() == stream).then_some(generation)
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
            assert_eq!(Layout::new(1, 16).of_job(id).number(), of_16, "{id:?} of 16");
            assert_eq!(Layout::new(2, 7).of_job(id).number(), of_7, "{id:?} of 7");
            assert_eq!(Layout::new(1, 1).of_job(id).number(), 0);
        }
    }

    #[test]
    fn jobs_spread_evenly() {
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            counts[usize::from(Layout::new(1, 16).of_job(&format!("job-{n}")).number())] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn names_have_the_generation_and_two_digits() {
        let partition = Layout::new(12, 8).partition(7).unwrap();
        assert_eq!(partition.stream(), "CALLBACKS-12-07");
        assert_eq!(partition.callbacks_subject(), "callbacks.12.07");
        assert_eq!(partition.internal_subject(), "internal.12.07");
        assert_eq!(partition.orders_subject(), "orders.12.07");
        assert_eq!(partition.ticks_subject(), "ticks.12.07");
        assert_eq!(partition.closed_subject(), "closed.12.07");
        let all: Vec<_> = Layout::new(1, 2).all().map(|one| one.to_string()).collect();
        assert_eq!(all, ["00", "01"]);
        assert_eq!(Layout::new(1, 2).partition(2), None);
        assert_eq!(Layout::new(1, 2).partition(-1), None);
    }

    #[test]
    fn a_name_tells_its_generation() {
        assert_eq!(generation_of("CALLBACKS-12-07"), Some(12));
        for other in
            ["CALLBACKS-07", "CALLBACKS-1-7", "CALLBACKS-01-07", "CALLBACKS-1-100", "X-1-07"]
        {
            assert_eq!(generation_of(other), None, "{other}");
        }
    }
}
