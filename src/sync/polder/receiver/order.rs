//! Datagrams of a stream put in order, and what is missing asked for.
//!
//! Owns the number that is expected and the datagrams behind it. Invariant: what is held lies behind the expected one,
//! within a number of datagrams and an amount of bytes.

use std::collections::BTreeMap;

use crate::net::Tick;
use crate::sync::polder::wire::NACK_RANGES_MAX;

/// How far behind the expected one a datagram may be.
pub const HELD_MAX: u64 = 1024;
/// Bytes of all that are held.
pub const HELD_BYTES_MAX: usize = 4 << 20;
/// Ticks from the sight of a gap to its first report: datagrams overtake each other.
const NACK_AFTER: u32 = 2;
/// Ticks from one report to the next.
const NACK_AGAIN: u32 = Tick::PER_SECOND / 10;
/// Reports after which the gap is given up.
const NACKS_MAX: u32 = 12;

#[derive(Debug)]
struct Gap {
    nack_at: Tick,
    nacks: u32,
    /// What was expected at the last report.
    expected: u64,
}

impl Gap {
    fn seen(now: Tick, expected: u64) -> Self {
        Self {
            nack_at: now.plus(NACK_AFTER),
            nacks: 0,
            expected,
        }
    }
}

/// The order of a stream.
#[derive(Debug)]
pub struct Order {
    expected: u64,
    held: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
    gap: Option<Gap>,
}

impl Order {
    pub fn new(next_seq: u64) -> Self {
        Self {
            expected: next_seq,
            held: BTreeMap::new(),
            bytes: 0,
            gap: None,
        }
    }

    /// The datagram that comes next.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    pub fn held(&self) -> (usize, usize) {
        (self.held.len(), self.bytes)
    }

    pub fn is_next(&self, seq: u64) -> bool {
        seq == self.expected
    }

    /// The expected one came. Nobody sends so many that numbers end, but who has a key may say so.
    pub fn advance(&mut self) {
        self.expected = self.expected.saturating_add(1);
    }

    /// Keeps a datagram that is not the expected one, if it is news. `false` when there is no room.
    pub fn hold(&mut self, now: Tick, seq: u64, body: &[u8]) -> bool {
        if seq < self.expected || self.held.contains_key(&seq) {
            return true;
        }
        if seq - self.expected > HELD_MAX || self.bytes + body.len() > HELD_BYTES_MAX {
            return false;
        }
        self.bytes += body.len();
        self.held.insert(seq, body.into());
        let expected = self.expected;
        self.gap.get_or_insert_with(|| Gap::seen(now, expected));
        true
    }

    /// The expected one, if it is held; the next one is expected then.
    pub fn take(&mut self) -> Option<(u64, Box<[u8]>)> {
        let seq = self.expected;
        let body = self.held.remove(&seq)?;
        self.bytes -= body.len();
        self.advance();
        Some((seq, body))
    }

    /// The first that is held in front of `to`.
    pub fn take_before(&mut self, to: u64) -> Option<(u64, Box<[u8]>)> {
        let (&seq, _) = self.held.range(..to).next()?;
        let body = self.held.remove(&seq)?;
        self.bytes -= body.len();
        Some((seq, body))
    }

    /// Where to go on when the expected one is given up and `seq` came: the first that is held, or `seq`.
    pub fn resume(&self, seq: u64) -> u64 {
        let first = self.held.first_key_value().map_or(seq, |(first, _)| *first);
        first.min(seq)
    }

    /// Expects `to` next, or what is behind it when `to` was just applied. Whether something is missed by that.
    pub fn leap(&mut self, to: u64) -> bool {
        let missed = to > self.expected;
        self.expected = self.expected.max(to);
        missed
    }

    /// After all was taken that could be: there is a gap if there is still something held.
    pub fn settle(&mut self, now: Tick) {
        if self.held.is_empty() {
            self.gap = None;
            return;
        }
        let expected = self.expected;
        let gap = self.gap.get_or_insert_with(|| Gap::seen(now, expected));
        if gap.expected != expected {
            gap.expected = expected;
            gap.nacks = 0;
        }
    }

    /// Whether the gap was reported often enough without an answer.
    pub fn gives_up(&self, now: Tick) -> bool {
        let gap = self.gap.as_ref();
        gap.is_some_and(|gap| gap.nacks >= NACKS_MAX && now.reached(gap.nack_at))
    }

    /// What to report as missing, if it is time.
    pub fn nack(&mut self, now: Tick) -> Option<Vec<(u64, u64)>> {
        let gap = self.gap.as_mut().filter(|gap| now.reached(gap.nack_at))?;
        gap.nack_at = now.plus(NACK_AGAIN);
        gap.nacks += 1;
        let mut ranges = Vec::new();
        let mut from = self.expected;
        for &seq in self.held.keys() {
            if seq > from {
                ranges.push((from, seq - 1));
            }
            from = seq.saturating_add(1);
            if ranges.len() >= NACK_RANGES_MAX {
                break;
            }
        }
        Some(ranges)
    }

    pub fn wake_at(&self) -> Option<Tick> {
        self.gap.as_ref().map(|gap| gap.nack_at)
    }
}
