//! The atomic word that the template table is made of, and the free list of its slabs.
//!
//! Knows nothing of templates. The word is a trait so that a schedule-exploring test can run the
//! table's own code on words that it controls; in production it is `AtomicU64`.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// A 64-bit atomic.
///
/// Loads and read-modify-writes are sequentially consistent: on x86 that costs nothing over acquire
/// and release, and the argument of why the table is right needs no others. A store is a release:
/// it only ever writes words of an entry that nobody else writes at that time, and a reader that
/// sees its value also sees what came before it.
pub trait Word: Default + Debug + Send + Sync {
    /// The value now.
    fn load(&self) -> u64;
    /// Sets the value. Only for words that no one else writes meanwhile.
    fn store(&self, value: u64);
    /// Sets the value and gives the old one.
    fn swap(&self, value: u64) -> u64;
    /// Sets the value if it is `old`; whether it was.
    fn swap_if(&self, old: u64, new: u64) -> bool;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::SeqCst)
    }
    #[inline]
    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Release);
    }
    #[inline]
    fn swap(&self, value: u64) -> u64 {
        AtomicU64::swap(self, value, Ordering::SeqCst)
    }
    #[inline]
    fn swap_if(&self, old: u64, new: u64) -> bool {
        self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// Replaces the word's value by what `change` makes of it, until that is done or `change` declines;
/// the value that was replaced.
#[inline]
pub fn update<W: Word>(word: &W, mut change: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
    loop {
        let old = word.load();
        let new = change(old)?;
        if new == old || word.swap_if(old, new) {
            return Some(old);
        }
    }
}

/// The upper half of a word.
#[inline]
pub fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The lower half of a word.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub fn low(word: u64) -> u32 {
    word as u32
}

/// A word of two halves.
#[inline]
pub fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A stack of the free elements of a slab, linked through a word of each (Treiber's).
///
/// The head carries a number that changes with every step, so that an element that was taken and
/// given back between another thread's reading and swapping of the head is noticed.
#[derive(Debug, Default)]
pub struct FreeStack<W> {
    /// Number of steps, and the top element's number plus 1 (0: empty).
    head: W,
}

impl<W: Word> FreeStack<W> {
    /// Takes an element. `link` gives the word that links element `i`.
    pub fn pop<'a>(&self, link: impl Fn(u32) -> &'a W) -> Option<u32>
    where
        W: 'a,
    {
        let top = update(&self.head, |head| {
            let top = low(head).checked_sub(1)?;
            // Another thread may have taken it and be using the word; the swap then fails.
            Some(pair(high(head).wrapping_add(1), low(link(top).load())))
        })?;
        Some(low(top) - 1)
    }

    /// Gives element `i` back.
    pub fn push(&self, i: u32, link: &W) {
        update(&self.head, |head| {
            link.store(u64::from(low(head)));
            Some(pair(high(head).wrapping_add(1), i + 1))
        });
    }
}
