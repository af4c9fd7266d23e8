//! What `lblc` and `lblcr` remember of a destination address: its server, or its set of servers.
//!
//! A fixed number of entries, allocated when the first such scheduler of the service is built; shared by all workers;
//! read and written without locks. An entry's words change one by one, so a worker may for a moment find a server
//! under the address that another worker is just putting there. That is harmless: what is found is a preference, and
//! is used only after it was checked to be an eligible server of the service.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::hash::mix;
use crate::net::Tick;
use crate::table::DestId;

/// Entries of a cache: the soft maximum of IPVS (specification §6.11), here a hard one.
const ENTRIES: usize = 16_384;
/// Entries that an address can be in. When all are in use, the one unused for longest gives way.
const WAYS: usize = 8;
/// Ticks after which an unused entry is forgotten, and an unchanged set shrinks: 24 h (specification §6.11, §6.12).
pub(super) const EXPIRY: u32 = 24 * 3600 * Tick::PER_SECOND;

/// A destination address and up to `M` servers.
#[derive(Debug)]
pub(super) struct Entry<const M: usize> {
    /// The address with bit 32 set; 0 when the entry is free.
    key: AtomicU64,
    /// When it was last used, in ticks.
    used: AtomicU32,
    /// When its set last changed, in ticks.
    modified: AtomicU32,
    /// Server ids plus one; 0 where there is none.
    members: [AtomicU32; M],
}

impl<const M: usize> Entry<M> {
    fn free() -> Self {
        Self {
            key: AtomicU64::new(0),
            used: AtomicU32::new(0),
            modified: AtomicU32::new(0),
            members: [const { AtomicU32::new(0) }; M],
        }
    }

    /// The servers of the entry, the one added last first, as in IPVS: it wins ties.
    pub(super) fn members(&self) -> impl Iterator<Item = DestId> + '_ {
        let ids = self
            .members
            .iter()
            .rev()
            .map(|member| member.load(Ordering::Relaxed));
        ids.filter_map(|id| id.checked_sub(1).map(DestId))
    }

    /// Ticks since the set changed.
    pub(super) fn unchanged_for(&self, now: Tick) -> u32 {
        now.since(Tick(self.modified.load(Ordering::Relaxed)))
    }

    /// Adds a server. A set that is full gives up `instead` for it.
    pub(super) fn add(&self, id: DestId, instead: Option<DestId>, now: Tick) {
        if self.members().any(|member| member == id) {
            return;
        }
        let new = id.0.wrapping_add(1);
        if self.exchange(0, new) || instead.is_some_and(|old| self.exchange(old.0 + 1, new)) {
            self.modified.store(now.0, Ordering::Relaxed);
        }
    }

    /// Removes a server.
    pub(super) fn remove(&self, id: DestId, now: Tick) {
        if self.exchange(id.0 + 1, 0) {
            self.modified.store(now.0, Ordering::Relaxed);
        }
    }

    /// Puts `new` in the first place that holds `old`.
    fn exchange(&self, old: u32, new: u32) -> bool {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        self.members
            .iter()
            .any(|member| member.compare_exchange(old, new, ok, err).is_ok())
    }

    fn clear(&self, now: Tick) {
        for member in &self.members {
            member.store(0, Ordering::Relaxed);
        }
        self.modified.store(now.0, Ordering::Relaxed);
    }

    fn idle_for(&self, now: Tick) -> u32 {
        now.since(Tick(self.used.load(Ordering::Relaxed)))
    }

    fn touch(&self, now: Tick) {
        // Written only when it changed, so that a busy address does not bounce its line at every connection.
        if self.used.load(Ordering::Relaxed) != now.0 {
            self.used.store(now.0, Ordering::Relaxed);
        }
    }
}

/// A bounded map from destination addresses to [`Entry`]s.
#[derive(Debug)]
pub(super) struct Cache<const M: usize> {
    entries: Box<[Entry<M>]>,
    /// Keeps outsiders from aiming addresses at one set of ways.
    secret: u64,
}

impl<const M: usize> Cache<M> {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            entries: std::iter::repeat_with(Entry::free).take(ENTRIES).collect(),
            secret,
        }
    }

    /// The entry of `addr`, unless it is unknown or was unused for [`EXPIRY`]; marks it used.
    pub(super) fn find(&self, addr: u32, now: Tick) -> Option<&Entry<M>> {
        let entry = self
            .ways(addr)
            .iter()
            .find(|e| e.key.load(Ordering::Relaxed) == key(addr))?;
        if entry.idle_for(now) >= EXPIRY {
            return None;
        }
        entry.touch(now);
        Some(entry)
    }

    /// The entry of `addr`, made empty if there was none. `None` when other workers were faster each time; the
    /// choice is then not remembered.
    pub(super) fn claim(&self, addr: u32, now: Tick) -> Option<&Entry<M>> {
        const TRIES_MAX: usize = 4;
        for _ in 0..TRIES_MAX {
            if let Some(entry) = self.find(addr, now) {
                return Some(entry);
            }
            let (entry, seen) = self.victim(addr, now)?;
            let swap = (Ordering::Relaxed, Ordering::Relaxed);
            if entry
                .key
                .compare_exchange(seen, key(addr), swap.0, swap.1)
                .is_ok()
            {
                entry.clear(now);
                entry.touch(now);
                return Some(entry);
            }
        }
        None
    }

    /// The entry to be used for a new address: its own expired one, else a free one, else the one unused for longest.
    fn victim(&self, addr: u32, now: Tick) -> Option<(&Entry<M>, u64)> {
        let rank = |entry: &Entry<M>, seen: u64| match seen {
            k if k == key(addr) => u64::MAX,
            0 => u64::MAX - 1,
            _ => u64::from(entry.idle_for(now)),
        };
        let ways = self
            .ways(addr)
            .iter()
            .map(|entry| (entry, entry.key.load(Ordering::Relaxed)));
        ways.max_by_key(|&(entry, seen)| rank(entry, seen))
    }

    #[allow(clippy::cast_possible_truncation)]
    fn ways(&self, addr: u32) -> &[Entry<M>] {
        let set = mix(u64::from(addr) ^ self.secret) as usize % (ENTRIES / WAYS);
        &self.entries[set * WAYS..][..WAYS]
    }
}

fn key(addr: u32) -> u64 {
    1 << 32 | u64::from(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const M: usize>(entry: &Entry<M>) -> Vec<u32> {
        entry.members().map(|id| id.0).collect()
    }

    #[test]
    fn an_address_is_found_until_it_was_unused_for_a_day() {
        let cache = Cache::<1>::new(7);
        cache
            .claim(0, Tick(5))
            .expect("nobody else is here")
            .add(DestId(3), None, Tick(5));
        let last = Tick(5 + EXPIRY - 1);
        assert_eq!(cache.find(0, last).map(ids), Some(vec![3]));
        assert!(cache.find(0, last.plus(EXPIRY)).is_none());
        assert!(cache.find(1, Tick(5)).is_none());
    }

    #[test]
    fn an_expired_entry_comes_back_empty_and_in_its_own_place() {
        let cache = Cache::<2>::new(7);
        cache
            .claim(9, Tick(0))
            .expect("nobody else is here")
            .add(DestId(3), None, Tick(0));
        let again = cache.claim(9, Tick(EXPIRY)).expect("nobody else is here");
        assert_eq!(ids(again), Vec::<u32>::new());
        assert_eq!(
            cache
                .entries
                .iter()
                .filter(|e| e.key.load(Ordering::Relaxed) != 0)
                .count(),
            1
        );
    }

    #[test]
    fn a_flood_of_addresses_fills_the_cache_and_no_more() {
        let cache = Cache::<1>::new(1);
        for addr in 0..100_000 {
            let now = Tick(addr);
            cache
                .claim(addr, now)
                .expect("nobody else is here")
                .add(DestId(addr), None, now);
        }
        let newest = cache.find(99_999, Tick(100_000)).map(ids);
        assert_eq!((cache.entries.len(), newest), (ENTRIES, Some(vec![99_999])));
    }

    #[test]
    fn a_full_set_gives_up_the_server_it_is_told_to() {
        let entry = Entry::<2>::free();
        entry.add(DestId(0), None, Tick(1));
        entry.add(DestId(1), None, Tick(2));
        entry.add(DestId(2), None, Tick(3));
        assert_eq!(
            (ids(&entry), entry.unchanged_for(Tick(12))),
            (vec![1, 0], 10)
        );
        entry.add(DestId(2), Some(DestId(0)), Tick(4));
        entry.remove(DestId(1), Tick(5));
        assert_eq!((ids(&entry), entry.unchanged_for(Tick(12))), (vec![2], 7));
    }

    #[test]
    fn addresses_that_several_workers_claim_at_once_are_all_found() {
        let cache = Cache::<1>::new(1);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for addr in 0..2_000 {
                        if let Some(entry) = cache.claim(addr, Tick(1)) {
                            entry.add(DestId(worker), None, Tick(1));
                        }
                    }
                });
            }
        });
        for addr in 0..2_000 {
            let members = cache.find(addr, Tick(1)).map(ids).unwrap_or_default();
            assert!(matches!(members[..], [0..=3]), "{addr}: {members:?}");
        }
    }
}
