//! A set of servers' places out of which the next member is found in constant time, whatever is missing.
//!
//! It holds at least every server that may take a connection: one that is found not to is closed by the worker that
//! finds out, and opened again when it is told that the reason is gone ([`Openings`]). Words of 32 places, words that
//! say which of those have members, and so on: four levels for the most servers that there can be. The upper half of
//! each word counts openings, so that closing fails when one came between the look and the exchange; no worker ever
//! misses a server whose opening is complete.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::table::{Dest, Openings};

const FANOUT: usize = 32;
/// One opening, in the count of a word.
const OPENING: u64 = 1 << 32;

/// Places that are open.
#[derive(Debug)]
pub(super) struct OpenSet {
    /// All levels, the places first; a bit of each further level stands for a word of the one before. The last is one
    /// word.
    words: Box<[AtomicU64]>,
    /// Where each level begins in `words`, and where the last one ends.
    begins: Box<[usize]>,
}

impl OpenSet {
    /// A set with a place for each of `dests`, told by those of weight above 0, which are the open ones.
    pub(super) fn watching<'a>(dests: impl Iterator<Item = &'a Arc<Dest>> + Clone) -> Arc<Self> {
        let set = Arc::new(Self::new(dests.clone().map(|dest| dest.weight > 0)));
        watch(&set, dests);
        set
    }

    fn new(open: impl Iterator<Item = bool>) -> Self {
        let mut members: Vec<bool> = open.collect();
        let (mut words, mut begins) = (Vec::new(), vec![0]);
        loop {
            let bits = |word: &[bool]| (0..).zip(word).map(|(n, &m)| u64::from(m) << n).sum();
            let level: Vec<u64> = members.chunks(FANOUT).map(bits).collect();
            members = level.iter().map(|&word| word != 0).collect();
            words.extend(level.into_iter().map(AtomicU64::new));
            begins.push(words.len());
            if members.len() <= 1 {
                return Self {
                    words: words.into(),
                    begins: begins.into(),
                };
            }
        }
    }

    fn levels(&self) -> usize {
        self.begins.len() - 1
    }

    /// The members of a word; none where the level has no such word. An opening that is under way may be missed.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn members(&self, level: usize, word: usize) -> u32 {
        let at = self.begins[level] + word;
        if at < self.begins[level + 1] {
            self.words[at].load(Ordering::Acquire) as u32
        } else {
            0
        }
    }

    /// The first open place at or after `from`.
    #[inline]
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        match self.members(0, from / FANOUT) & (u32::MAX << (from % FANOUT)) {
            0 => self.climb(from),
            members => Some(from / FANOUT * FANOUT + members.trailing_zeros() as usize),
        }
    }

    /// The same where the word of `from` has no such place.
    fn climb(&self, from: usize) -> Option<usize> {
        // Up to the first word that has a member at or after `at`, and down again. On the way down nothing is found
        // only where a worker has closed the last of a word and not yet said so above; the search goes on behind.
        let (mut level, mut at) = (1, from / FANOUT + 1);
        while level < self.levels() {
            let members = self.members(level, at / FANOUT) & (u32::MAX << (at % FANOUT));
            if members == 0 {
                (level, at) = (level + 1, at / FANOUT + 1);
                continue;
            }
            let found = at / FANOUT * FANOUT + members.trailing_zeros() as usize;
            if level == 0 {
                return Some(found);
            }
            (level, at) = (level - 1, found * FANOUT);
        }
        None
    }

    /// The first of the places whose server may take a connection, as `may_take` says. Closes those that seem to and
    /// may not.
    #[inline]
    pub(super) fn first(
        &self,
        places: Range<usize>,
        may_take: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut from = places.start;
        loop {
            let place = self.next(from).filter(|&place| place < places.end)?;
            if may_take(place) {
                return Some(place);
            }
            self.close(place, || may_take(place));
            from = place + 1;
        }
    }

    /// Takes out a place whose server may take nothing, unless `may_take` by now.
    fn close(&self, place: usize, may_take: impl Fn() -> bool) {
        let mut at = place;
        for level in 0..self.levels() {
            let bit = 1 << (at % FANOUT);
            let word = &self.words[self.begins[level] + at / FANOUT];
            // Lock-free: an exchange fails only because another worker's succeeded. What keeps the place open is looked
            // at after the word was read: an opening before that is seen, one after it makes the exchange fail.
            let closed = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let needed = match level {
                    0 => may_take(),
                    _ => self.members(level - 1, at) != 0,
                };
                (!needed && word & bit != 0).then_some(word & !bit)
            });
            match closed {
                Ok(before) if before & !bit & (OPENING - 1) == 0 => at /= FANOUT,
                _ => return,
            }
        }
    }
}

impl Openings for OpenSet {
    fn open(&self, place: usize) {
        let mut at = place;
        for level in 0..self.levels() {
            let bit = 1 << (at % FANOUT);
            let word = &self.words[self.begins[level] + at / FANOUT];
            // Counted even where the bit is set, for a worker may be about to clear it. The update can't be refused.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word.wrapping_add(OPENING) | bit)
            });
            at /= FANOUT;
        }
    }
}

/// Has the servers of weight above 0 tell `openings` of their places in `dests`.
pub(super) fn watch<'a, T: Openings + 'static>(
    openings: &Arc<T>,
    dests: impl Iterator<Item = &'a Arc<Dest>>,
) {
    for (place, dest) in dests.enumerate().filter(|(_, dest)| dest.weight > 0) {
        let watcher = Arc::downgrade(openings);
        dest.shared.watch(watcher, place, dest.by_session);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    fn set(places: usize) -> OpenSet {
        OpenSet::new((0..places).map(|_| true))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn it_finds_what_a_sorted_set_finds(
            places in 1..3_000usize,
            ops in prop::collection::vec((0..3u8, any::<prop::sample::Index>(), 1..200usize), 1..60),
        ) {
            let (open, mut model) = (set(places), (0..places).collect::<BTreeSet<_>>());
            for (op, at, run) in ops {
                let at = at.index(places);
                for place in at..(at + run).min(places) {
                    match op {
                        0 => open.open(place),
                        _ => open.close(place, || false),
                    }
                    if op == 0 { model.insert(place) } else { model.remove(&place) };
                }
                for from in [0, at, at + run, places, places + FANOUT] {
                    prop_assert_eq!(open.next(from), model.range(from..).next().copied());
                }
            }
        }
    }

    #[test]
    fn the_most_servers_that_there_can_be_have_four_levels() {
        let open = set(super::super::MAX_SERVERS);
        assert_eq!(open.levels(), 4);
        (1..super::super::MAX_SERVERS).for_each(|place| open.close(place, || false));
        assert_eq!((open.next(0), open.next(1)), (Some(0), None));
        open.close(0, || true);
        assert_eq!(open.next(0), Some(0), "it may take connections after all");
        open.close(0, || false);
        assert_eq!(open.next(0), None);
        assert_eq!(set(0).next(0), None);
    }

    /// Each thread opens its own place after making its server free, closes what it finds overloaded, and must find its
    /// own whenever its opening is complete.
    #[test]
    fn an_opening_that_is_complete_is_never_missed() {
        const PLACES: usize = 70;
        let open = set(PLACES);
        let free: Vec<AtomicBool> = (0..PLACES).map(|_| AtomicBool::new(true)).collect();
        std::thread::scope(|scope| {
            for mine in [0, 1, 40, 69] {
                let (open, free) = (&open, &free);
                scope.spawn(move || {
                    for _ in 0..100_000 {
                        free[mine].store(false, Ordering::Relaxed);
                        for place in [mine, 0, 1, 40, 69] {
                            open.close(place, || free[place].load(Ordering::Relaxed));
                        }
                        assert_ne!(open.next(mine), Some(mine));
                        free[mine].store(true, Ordering::Relaxed);
                        open.open(mine);
                        assert_eq!(open.next(mine), Some(mine));
                    }
                });
            }
            let (open, free) = (&open, &free);
            scope.spawn(move || {
                for n in 0..400_000 {
                    let place = n % PLACES;
                    open.close(place, || free[place].load(Ordering::Relaxed));
                }
            });
        });
        let kept: Vec<usize> = (0..PLACES).filter(|&p| open.next(p) == Some(p)).collect();
        assert_eq!(kept, (0..PLACES).collect::<Vec<_>>());
    }
}
