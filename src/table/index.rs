//! Hash index of a table: from a 64-bit hash to 32-bit references.
//!
//! Owns the buckets. Knows nothing of keys or entries: whoever looks up says which candidate is the one. A bucket is
//! one cache line of eight slots (16 hash bits and a reference each); a reference that finds its bucket full goes to
//! the next one, and each bucket counts the references that went past it, so that a lookup stops at the first bucket
//! that none went past and a removal leaves no trace.
//!
//! Invariants: a slot's tag is 0 iff the slot is free; `passed` of a bucket is the number of stored references whose
//! home is at or before it and whose place is behind it.

use bytemuck::{Pod, Zeroable};

use super::memory::{Pages, TableError};
use super::prefetch::prefetch;

const SLOTS: usize = 8;
/// References per bucket that the index is sized for: half of its slots, so 1 in 47 buckets is full.
const FILL: usize = SLOTS / 2;
/// How many buckets a reference may be away from its home. At the designed load the longest run of full buckets in
/// a table of millions is 4; with more, someone knows the key.
const PROBES: u32 = 16;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    passed: u32,
    spare: [u32; 3],
    refs: [u32; SLOTS],
}
const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The slots that hold `tag`.
    #[inline]
    fn holding(&self, tag: u16) -> Held {
        // Four tags at a time in a word: 3 ns less than what the compiler makes of a loop over the tags. A lane is
        // zero where its tag is equal; adding 0x7fff to its low bits then leaves its top bit alone.
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;
        let [a, b]: [u64; 2] = bytemuck::cast(self.tags);
        let equal = |tags: u64| {
            let differs = tags ^ (u64::from(tag) * 0x0001_0001_0001_0001);
            !(((differs & LOW) + LOW) | differs | LOW)
        };
        Held(equal(a) | equal(b) >> 1)
    }

    /// The slot of the reference `value` under `tag`.
    fn slot_of(&self, tag: u16, value: u32) -> Option<usize> {
        (0..SLOTS).find(|&i| self.tags[i] == tag && self.refs[i] == value)
    }
}

/// Slots of one bucket, in no particular order: the top bit of each 16-bit lane stands for one of the first four, the bit
/// below it for one of the last four.
#[derive(Clone, Copy)]
struct Held(u64);

impl Iterator for Held {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (bit < 64).then_some(bit / 16 + 4 * usize::from(bit.is_multiple_of(2)))
    }
}

/// No room for a reference within the probing bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFull;

/// A multimap from hashes to references.
#[derive(Debug)]
pub struct Index {
    buckets: Pages<Bucket>,
    count: u32,
    probes: u32,
}

impl Index {
    /// An index for `refs` references.
    ///
    /// # Errors
    /// When there is no memory, or so many references can't be had.
    pub fn new(refs: usize) -> Result<Self, TableError> {
        let count =
            u32::try_from(refs.div_ceil(FILL).max(1)).map_err(|_| TableError::Capacity {
                asked: refs,
                max: u32::MAX as usize * FILL,
            })?;
        Ok(Self {
            buckets: Pages::zeroed(count as usize)?,
            count,
            probes: PROBES.min(count),
        })
    }

    /// Fetches the bucket of `hash` ahead of its use.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.buckets.at(self.home(hash)));
    }

    /// The first stored reference that shares the hash's bits in the index, to be verified by the caller.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The reference stored under `hash` that `is` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.probes {
            let bucket = self.buckets.at(at);
            for slot in bucket.holding(tag) {
                if is(bucket.refs[slot]) {
                    return Some(bucket.refs[slot]);
                }
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Stores `value` under `hash`. Equal references are stored twice: the caller looks first.
    ///
    /// # Errors
    /// When the home bucket and all that may stand in for it are full; the index is then unchanged.
    pub fn insert(&mut self, hash: u64, value: u32) -> Result<(), IndexFull> {
        let home = self.home(hash);
        let mut at = home;
        for _ in 0..self.probes {
            let bucket = self.buckets.at_mut(at);
            if let Some(slot) = bucket.holding(0).next() {
                bucket.tags[slot] = tag(hash);
                bucket.refs[slot] = value;
                self.count_passed(home, at, 1);
                return Ok(());
            }
            at = self.after(at);
        }
        Err(IndexFull)
    }

    /// Removes `value`, stored under `hash`.
    ///
    /// # Panics
    /// When it is not stored: the index and its table would disagree.
    pub fn remove(&mut self, hash: u64, value: u32) {
        let home = self.home(hash);
        let mut at = home;
        for _ in 0..self.probes {
            let bucket = self.buckets.at_mut(at);
            if let Some(slot) = bucket.slot_of(tag(hash), value) {
                bucket.tags[slot] = 0;
                bucket.refs[slot] = 0;
                self.count_passed(home, at, u32::MAX);
                return;
            }
            at = self.after(at);
        }
        panic!("a reference that was stored is not in the index");
    }

    /// How many references are away from home, each counted in every bucket on its way.
    #[cfg(test)]
    pub fn displaced(&self) -> u32 {
        (0..self.count).map(|at| self.buckets.at(at).passed).sum()
    }

    /// Adds `change` (1, or -1 in wrapping arithmetic) to the buckets from `home` up to, not including, `at`.
    #[inline]
    fn count_passed(&mut self, home: u32, at: u32, change: u32) {
        let mut passed = home;
        while passed != at {
            let bucket = self.buckets.at_mut(passed);
            bucket.passed = bucket.passed.wrapping_add(change);
            passed = self.after(passed);
        }
    }

    /// The bucket that a hash belongs to, by its high half (the tag comes from the low one). A multiplication
    /// instead of a mask, so that the number of buckets need not be a power of two.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn home(&self, hash: u64) -> u32 {
        (((hash >> 32) * u64::from(self.count)) >> 32) as u32
    }

    #[inline]
    fn after(&self, at: u32) -> u32 {
        if at + 1 == self.count { 0 } else { at + 1 }
    }
}

/// The hash's bits in a slot; never 0, which marks a free one.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}
