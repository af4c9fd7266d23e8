//! Rates as IPVS estimates them: an average in which each sample of two seconds counts for a quarter.
//!
//! Knows no clock and no counter: it is given what was counted, and how long that took.

use std::time::Duration;

use super::api::Counts;

/// How often a sample is taken (specification §10.11).
pub const SAMPLING: Duration = Duration::from_secs(2);

/// One rate, in parts of a 2^`SHIFT`th per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Average<const SHIFT: u32>(i64);

impl<const SHIFT: u32> Average<SHIFT> {
    fn sample(&mut self, counted: u64, elapsed: Duration) {
        let millis = elapsed.as_millis().max(1);
        let now = (u128::from(counted) << SHIFT) * 1000 / millis;
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.0 = self.0.saturating_add(now.saturating_sub(self.0) >> 2);
    }

    fn per_second(self) -> u64 {
        let half = (1 << (SHIFT - 1)) - 1;
        u64::try_from(self.0.saturating_add(half) >> SHIFT).unwrap_or(0)
    }
}

/// The rates of a service or a real server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// What had been counted at the last sample.
    last: Counts,
    connections: Average<10>,
    packets_in: Average<10>,
    packets_out: Average<10>,
    bytes_in: Average<5>,
    bytes_out: Average<5>,
}

impl Rates {
    /// Rates of 0, of something for which so much was counted.
    #[must_use]
    pub fn begun(counted: Counts) -> Self {
        Self {
            last: counted,
            ..Self::default()
        }
    }

    /// Takes a sample: what was counted in all, and how long after the last sample.
    pub fn sample(&mut self, counted: Counts, elapsed: Duration) {
        let last = std::mem::replace(&mut self.last, counted);
        let news = |now: u64, then: u64| now.saturating_sub(then);
        self.connections
            .sample(news(counted.connections, last.connections), elapsed);
        self.packets_in
            .sample(news(counted.packets_in, last.packets_in), elapsed);
        self.packets_out
            .sample(news(counted.packets_out, last.packets_out), elapsed);
        self.bytes_in
            .sample(news(counted.bytes_in, last.bytes_in), elapsed);
        self.bytes_out
            .sample(news(counted.bytes_out, last.bytes_out), elapsed);
    }

    /// What comes in a second, rounded to the nearest.
    #[must_use]
    pub fn per_second(&self) -> Counts {
        Counts {
            connections: self.connections.per_second(),
            packets_in: self.packets_in.per_second(),
            packets_out: self.packets_out.per_second(),
            bytes_in: self.bytes_in.per_second(),
            bytes_out: self.bytes_out.per_second(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(n: u64) -> Counts {
        Counts {
            connections: n,
            packets_in: 10 * n,
            packets_out: 5 * n,
            bytes_in: 1000 * n,
            bytes_out: 700 * n,
        }
    }

    #[test]
    fn a_steady_flow_is_told_as_it_is_after_a_while() {
        let mut rates = Rates::default();
        for i in 1..80 {
            rates.sample(counts(200 * i), SAMPLING);
        }
        assert_eq!(rates.per_second(), counts(100));
    }

    #[test]
    fn one_sample_counts_for_a_quarter_and_fades() {
        // Values of the arithmetic of specification §10.11: Δ·2^9 a quarter of it, rounded.
        let mut rates = Rates::default();
        rates.sample(counts(10), SAMPLING);
        let mut seen = vec![rates.per_second().packets_in];
        for _ in 0..4 {
            rates.sample(counts(10), SAMPLING);
            seen.push(rates.per_second().packets_in);
        }
        assert_eq!(seen, [12, 9, 7, 5, 4]);
    }

    #[test]
    fn a_sample_that_comes_late_is_no_higher_rate() {
        let (mut late, mut early) = (Rates::default(), Rates::default());
        late.sample(counts(300), Duration::from_secs(3));
        early.sample(counts(200), SAMPLING);
        assert_eq!(late.per_second(), early.per_second());
    }
}
