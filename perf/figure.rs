//! What the benchmarks of tables share: figures with their spread, an order that caches can't guess, and a keyed hash
//! for the rivals.

#![allow(dead_code)] // Each benchmark uses its part.

use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use polder::net::HashKey;

/// Operations that are timed together.
pub const WINDOW: usize = 65_536;

/// The sizes that the command line asks for, or else these.
pub fn sizes(default: &[usize]) -> Vec<usize> {
    let asked = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let asked: Vec<usize> = asked.collect();
    if asked.is_empty() {
        default.to_vec()
    } else {
        asked
    }
}

/// Brings `all` into an order that is the same in each run.
pub fn shuffle<T>(all: &mut [T]) {
    let mut seed = 1u64;
    for i in (1..all.len()).rev() {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        all.swap(i, (seed >> 33) as usize % (i + 1));
    }
}

/// Nanoseconds per operation, by window.
#[derive(Clone, Default)]
pub struct Figure(Vec<f64>);

impl Figure {
    /// Times `run` over `keys`, of which it does one operation for each.
    pub fn windows<K>(&mut self, keys: &[K], mut run: impl FnMut(&[K])) {
        let repeat = WINDOW.div_ceil(keys.len()).max(1);
        for window in keys.chunks(WINDOW) {
            let start = Instant::now();
            (0..repeat).for_each(|_| run(window));
            self.add(start, window.len() * repeat);
        }
    }

    /// So many operations were done since `start`.
    #[allow(clippy::cast_precision_loss)]
    pub fn add(&mut self, start: Instant, operations: usize) {
        self.0
            .push(start.elapsed().as_nanos() as f64 / operations as f64);
    }

    /// The value that `percent` of the windows do not exceed.
    pub fn at(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() - 1) * percent / 100]
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, median, high) = (self.at(10), self.at(50), self.at(90));
        write!(f, "{median:.1} ({low:.1}..{high:.1})")
    }
}

/// A keyed hash of the tables' kind for maps of the standard library's interface.
#[derive(Clone)]
pub struct Keyed(pub HashKey);

impl BuildHasher for Keyed {
    type Hasher = Fold;
    fn build_hasher(&self) -> Fold {
        Fold {
            state: self.0.0[0],
            key: self.0.0[1] | 1,
        }
    }
}

/// A multiply-fold hash, a word at a time.
pub struct Fold {
    state: u64,
    key: u64,
}

impl Fold {
    #[allow(clippy::cast_possible_truncation)]
    fn word(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.state
    }
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.word(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, v: u8) {
        self.word(u64::from(v));
    }
    fn write_u16(&mut self, v: u16) {
        self.word(u64::from(v));
    }
    fn write_u32(&mut self, v: u32) {
        self.word(u64::from(v));
    }
}
