//! `lblcr`, locality-based least connection with replication (specification §6.12).
//!
//! Differs from IPVS in that a destination's set holds at most 12 servers (its entry is then one cache line): the
//! most loaded member gives way to a 13th. The cache is bounded as that of [`super::lblc`].

use std::sync::Arc;

use super::cache::{self, EXPIRY};
use super::lblc::{Indices, locally_overloaded};
use super::load::{Load, least, least_of, weighted};
use super::{Build, Flags, Scheduler, Selection};
use crate::net::Tick;
use crate::table::{Dest, DestId};

/// A set of servers for each destination.
pub(super) type Cache = cache::Cache<12>;
type Entry = cache::Entry<12>;

#[derive(Debug)]
struct Replicated {
    cache: Arc<Cache>,
    indices: Indices,
}

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let cache = build.state.with("lblcr", |kept| {
        kept.lblcr
            .get_or_insert_with(|| Arc::new(Cache::new(build.seed)))
            .clone()
    });
    Box::new(Replicated {
        cache,
        indices: Indices::new(build.dests),
    })
}

impl Scheduler for Replicated {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let (addr, now) = (selection.virtual_addr, selection.now);
        if let Some(entry) = self.cache.find(addr, now) {
            let candidate = least_of(dests, self.members(entry), weighted);
            self.shrink(entry, dests, now);
            if let Some(index) = candidate.filter(|&i| !locally_overloaded(&dests[i], dests)) {
                return Some(index);
            }
        }
        let index = least(dests, weighted)?;
        if let Some(entry) = self.cache.claim(addr, now) {
            entry.add(dests[index].id, self.most_loaded(entry, dests), now);
        }
        Some(index)
    }
}

impl Replicated {
    /// The members of a set that are still servers of the service, by index.
    fn members(&self, entry: &Entry) -> impl Iterator<Item = usize> {
        entry.members().filter_map(|id| self.indices.of(id))
    }

    /// Takes the most loaded member out of a set that did not change for a day.
    fn shrink(&self, entry: &Entry, dests: &[Arc<Dest>], now: Tick) {
        if entry.unchanged_for(now) > EXPIRY
            && entry.members().nth(1).is_some()
            && let Some(id) = self.most_loaded(entry, dests)
        {
            entry.remove(id, now);
        }
    }

    fn most_loaded(&self, entry: &Entry, dests: &[Arc<Dest>]) -> Option<DestId> {
        let mut most: Option<(DestId, Load)> = None;
        for dest in self
            .members(entry)
            .map(|index| &dests[index])
            .filter(|dest| dest.weight > 0)
        {
            let load = weighted(dest, dest.load());
            if most.is_none_or(|(_, most)| load.exceeds(most)) {
                most = Some((dest.id, load));
            }
        }
        most.map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Service, carry, list, overload};
    use super::*;

    fn to(virtual_addr: u32, now: u32) -> Selection<'static> {
        Selection {
            virtual_addr,
            now: Tick(now),
            ..Selection::default()
        }
    }

    /// A service whose destination 1 has servers 0 and 1 in its set, of which 0 is the more loaded.
    fn replicated() -> Service {
        let service = Service::new("lblcr", &[], list(&[2, 4, 4]));
        assert_eq!(service.select(&to(1, 0)), Some(0));
        carry(&service.dests[0], 3, 0);
        carry(&service.dests[2], 1, 1);
        assert_eq!(
            service.select(&to(1, 0)),
            Some(1),
            "server 0 is above its weight"
        );
        service
    }

    #[test]
    fn the_least_loaded_member_of_the_set_takes_the_connection() {
        let service = replicated();
        carry(&service.dests[1], 2, 0);
        assert_eq!(
            service.select(&to(1, 0)),
            Some(1),
            "server 2 is idler but no member"
        );
        for _ in 0..3 {
            service.dests[0].unbind(true);
        }
        assert_eq!(service.select(&to(1, 0)), Some(0), "still a member");
    }

    #[test]
    fn of_equally_loaded_members_the_one_added_last_takes_the_connection() {
        let service = replicated();
        for _ in 0..3 {
            service.dests[0].unbind(true);
        }
        assert_eq!(service.select(&to(1, 0)), Some(1));
    }

    #[test]
    fn a_set_without_an_eligible_member_gets_another() {
        let service = replicated();
        carry(&service.dests[1], 0, 1);
        for index in [0, 1] {
            overload(&service.dests[index], true);
        }
        assert_eq!(service.select(&to(1, 0)), Some(2));
    }

    #[test]
    fn a_set_unchanged_for_a_day_loses_its_most_loaded_member() {
        let service = replicated();
        let day = EXPIRY;
        // Used on the way, so that the entry itself does not expire.
        assert_eq!(service.select(&to(1, day / 2)), Some(1));
        assert_eq!(
            service.select(&to(1, day + 1)),
            Some(1),
            "and server 0 leaves the set"
        );
        for _ in 0..3 {
            service.dests[0].unbind(true);
        }
        carry(&service.dests[1], 1, 0);
        assert_eq!(
            service.select(&to(1, day + 1)),
            Some(1),
            "server 0 is idle but no member now"
        );
    }

    #[test]
    fn a_thirteenth_server_takes_the_place_of_the_most_loaded() {
        let service = Service::new("lblcr", &[], list(&[1; 13]));
        for (n, dest) in service.dests.iter().enumerate() {
            assert_eq!(service.select(&to(1, 0)), Some(n));
            carry(dest, 0, 1);
            overload(dest, true);
        }
        carry(&service.dests[0], 0, 1);
        service.dests.iter().for_each(|dest| overload(dest, false));
        let members: Vec<_> = (0..12)
            .map(|_| {
                let index = service.select(&to(1, 0)).expect("none is overloaded");
                overload(&service.dests[index], true);
                index
            })
            .collect();
        assert!(members.contains(&12), "{members:?}");
    }

    /// Specification §6.12 with an unbounded map of sets. No time passes, so no set shrinks.
    #[test]
    fn choices_are_those_of_the_specification() {
        let service = Service::new("lblcr", &[], list(&[1, 3, 2, 0]));
        let dests = &service.dests;
        let mut memory = std::collections::HashMap::<u32, Vec<usize>>::new();
        for n in 0..4_000u64 {
            let random = super::super::hash::nth(3, n);
            let addr = (random % 50) as u32;
            let half_idle = dests.iter().any(|d| d.shared.active() * 2 < d.weight);
            let usable = |&i: &usize| !(dests[i].shared.active() > dests[i].weight && half_idle);
            let set = memory.entry(addr).or_default();
            let member = least_of(dests, set.iter().copied(), weighted).filter(usable);
            let expected = member
                .or_else(|| least(dests, weighted))
                .expect("none is overloaded");
            if !set.contains(&expected) {
                set.insert(0, expected);
            }
            assert_eq!(service.select(&to(addr, 0)), Some(expected));
            let dest = &dests[random as usize / 64 % 3];
            if random >> 60 < 8 {
                carry(dest, 1, 0);
            } else if dest.shared.active() > 0 {
                dest.unbind(true);
            }
        }
    }
}
