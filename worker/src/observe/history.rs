//! The last half hour, for small charts.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

use super::snapshot::{PartitionState, Sample};

/// The shortest time between two samples.
const SPACING: TimeDelta = TimeDelta::seconds(5);
/// How long a sample is kept.
const KEPT: TimeDelta = TimeDelta::minutes(30);

/// The samples of the last half hour.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    before: Option<(DateTime<Utc>, Vec<PartitionState>)>,
}

impl History {
    /// Takes a sample, if the previous one is old enough.
    pub(super) fn add(&mut self, at: DateTime<Utc>, partitions: &[PartitionState]) {
        let Some((then, before)) = &self.before else {
            self.before = Some((at, partitions.to_vec()));
            return;
        };
        let passed = at.signed_duration_since(*then);
        if passed < SPACING {
            return;
        }
        let total = |states: &[PartitionState]| -> i64 {
            states.iter().map(|state| state.applied_callbacks).sum()
        };
        // A restored database has applied less than before.
        let applied = (total(partitions) - total(before)).max(0);
        let moved = partitions.iter().zip(before).filter(|(now, before)| {
            now.applied_at != before.applied_at && now.applied_seq != before.applied_seq
        });
        let latencies: Vec<f64> = moved.filter_map(|(now, _)| now.latency_seconds()).collect();
        let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
        let lags: Option<Vec<u64>> = partitions.iter().map(|state| state.lag_messages).collect();
        let is_old = |sample: &Sample| at.signed_duration_since(sample.at) >= KEPT;
        while self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at,
            callbacks_per_second: applied as f64 / passed.as_seconds_f64(),
            lag_messages: lags.map(|lags| lags.iter().sum()),
            accept_to_commit_seconds: (!latencies.is_empty()).then_some(mean),
        });
        self.before = Some((at, partitions.to_vec()));
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(applied: i64, lag: Option<u64>, waited_ms: i64) -> PartitionState {
        let at = DateTime::from_timestamp(1_700_000_000 + applied, 0).unwrap();
        PartitionState {
            applied_seq: applied,
            applied_callbacks: applied,
            applied_at: Some(at + TimeDelta::milliseconds(waited_ms)),
            applied_received_at: Some(at),
            lag_messages: lag,
            ..PartitionState::default()
        }
    }

    #[test]
    fn a_sample_says_what_has_happened_since_the_one_before() {
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        let mut history = History::default();
        history.add(at(0), &[state(0, Some(0), 0), state(7, Some(0), 0)]);
        history.add(at(3), &[state(50, Some(9), 10), state(7, Some(0), 0)]);
        assert!(history.samples().is_empty(), "too early");
        history.add(at(10), &[state(100, Some(2), 30), state(7, Some(1), 0)]);
        history.add(at(20), &[state(90, Some(2), 30), state(7, None, 0)]);
        history.add(at(30), &[state(90, Some(2), 30), state(7, Some(1), 0)]);
        let samples = history.samples();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].callbacks_per_second, 10.0);
        assert_eq!(samples[0].lag_messages, Some(3));
        assert_eq!(samples[0].accept_to_commit_seconds, Some(0.03), "only what has moved");
        assert_eq!(samples[1].callbacks_per_second, 0.0, "the database was restored");
        assert_eq!(samples[1].lag_messages, None, "a sum needs all of its parts");
        assert_eq!(samples[2].accept_to_commit_seconds, None);
    }

    #[test]
    fn only_half_an_hour_is_kept_however_often_samples_are_taken() {
        for (spacing, kept) in [(5, 360), (30, 60)] {
            let mut history = History::default();
            for n in 0..500 {
                let at = DateTime::from_timestamp(n * spacing, 0).unwrap();
                history.add(at, &[state(n, Some(0), 0)]);
            }
            assert_eq!(history.samples().len(), kept);
        }
    }
}
