//! How old a record is when it comes.
//!
//! What an entry has left is said as of when the record was made. A datagram that was lost and repeated may be seconds old;
//! without its age an entry would seem to be used later than it was. Marks tell the sender's time; what they took is
//! the least difference of both clocks that was seen lately.

use crate::net::Tick;

/// For how long a difference counts, once or twice: clocks drift.
const WINDOW: u32 = 30 * Tick::PER_SECOND;

/// The sender's clock, as far as it shows.
#[derive(Debug, Default)]
pub struct Clock {
    /// The least difference of this window and of the one before.
    least: Option<u32>,
    before: Option<u32>,
    since: Tick,
    /// The last mark.
    mark: Option<Tick>,
}

/// The smaller of two differences that may lie around the wrap.
fn smaller(a: u32, b: u32) -> u32 {
    if Tick(a).reached(Tick(b)) { b } else { a }
}

impl Clock {
    /// A mark came, in its turn.
    pub fn mark(&mut self, now: Tick, tick: Tick) {
        self.mark = Some(tick);
        self.sight(now, tick);
    }

    /// A mark came, in its turn or out of it.
    pub fn sight(&mut self, now: Tick, tick: Tick) {
        let difference = now.0.wrapping_sub(tick.0);
        if self.least.is_none() || now.since(self.since) >= WINDOW {
            self.before = self.least.replace(difference);
            self.since = now;
        }
        self.least = self.least.map(|least| smaller(least, difference));
    }

    /// Marks were missed.
    pub fn leap(&mut self) {
        self.mark = None;
    }

    /// Ticks since what follows the last mark was made, beyond those that the fastest datagrams take.
    pub fn age(&self, now: Tick) -> u32 {
        let (Some(mark), Some(least)) = (self.mark, self.least) else {
            return 0;
        };
        let difference = self.before.map_or(least, |before| smaller(before, least));
        Tick(now.0.wrapping_sub(difference)).since(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_record_is_as_old_as_it_is_late() {
        let mut clock = Clock::default();
        assert_eq!(clock.age(Tick(5)), 0);
        // Their clock is behind ours by 1000, and wraps; datagrams take 2 to 30 ticks.
        let theirs = |ours: u32| Tick(ours.wrapping_sub(1000));
        for (sent, takes) in [(900, 30), (950, 2), (980, 12)] {
            clock.mark(Tick(sent + takes), theirs(sent));
        }
        assert_eq!(clock.age(Tick(992)), 10);
        clock.mark(Tick(2000), theirs(1100));
        assert_eq!(clock.age(Tick(2000)), 898);
        clock.leap();
        assert_eq!(clock.age(Tick(2000)), 0);
    }

    #[test]
    fn drifting_clocks_are_followed() {
        let mut clock = Clock::default();
        for second in 0..10_000 {
            // One tick of drift in ten seconds.
            let ours = second * 100;
            clock.mark(Tick(ours), Tick(ours - second / 10));
        }
        assert!(
            clock.age(Tick(999_900)) <= 7,
            "{}",
            clock.age(Tick(999_900))
        );
    }
}
