//! `lblc`, locality-based least connection (specification §6.11).
//!
//! Differs from IPVS in two ways. A remembered server that has its overload flag set is not used, or a threshold
//! would not be one. And the cache is bounded at once, not by a sweep: see [`super::cache`]. IPv6 destinations are
//! remembered by their folded address.

use std::sync::Arc;

use hashbrown::HashMap;

use super::load::{least, weighted};
use super::{Build, Flags, Scheduler, Selection, cache};
use crate::table::{Dest, DestId};

/// One server for each destination.
pub(super) type Cache = cache::Cache<1>;

#[derive(Debug)]
struct LocalityBased {
    cache: Arc<Cache>,
    indices: Indices,
}

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let cache = build.state.with("lblc", |kept| {
        kept.lblc
            .get_or_insert_with(|| Arc::new(Cache::new(build.seed)))
            .clone()
    });
    Box::new(LocalityBased {
        cache,
        indices: Indices::new(build.dests),
    })
}

impl Scheduler for LocalityBased {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let (addr, now) = (selection.virtual_addr, selection.now);
        let cached = self
            .cache
            .find(addr, now)
            .and_then(|entry| entry.members().next());
        if let Some(index) = cached.and_then(|id| self.indices.of(id))
            && dests[index].eligible()
            && !locally_overloaded(&dests[index], dests)
        {
            return Some(index);
        }
        let index = least(dests, weighted)?;
        if let Some(entry) = self.cache.claim(addr, now) {
            let old = entry.members().next();
            entry.add(dests[index].id, old, now);
        }
        Some(index)
    }
}

/// Whether a server has more active connections than its weight while another has less than half of its own.
pub(super) fn locally_overloaded(dest: &Dest, dests: &[Arc<Dest>]) -> bool {
    let half_idle = |d: &Arc<Dest>| u64::from(d.load().active) * 2 < u64::from(d.weight);
    dest.load().active > dest.weight && dests.iter().any(half_idle)
}

/// Where in the list each server is.
#[derive(Debug)]
pub(super) struct Indices(HashMap<DestId, usize>);

impl Indices {
    pub(super) fn new(dests: &[Arc<Dest>]) -> Self {
        Self(
            dests
                .iter()
                .enumerate()
                .map(|(index, dest)| (dest.id, index))
                .collect(),
        )
    }

    /// The index of a server, if it is still one of the service.
    #[inline]
    pub(super) fn of(&self, id: DestId) -> Option<usize> {
        self.0.get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::EXPIRY;
    use super::super::testkit::{Service, carry, list, overload, reweighted};
    use super::*;
    use crate::net::Tick;

    fn to(virtual_addr: u32, now: u32) -> Selection<'static> {
        Selection {
            virtual_addr,
            now: Tick(now),
            ..Selection::default()
        }
    }

    #[test]
    fn a_destination_stays_on_its_server_while_others_become_less_loaded() {
        let service = Service::new("lblc", &[], list(&[9, 9]));
        assert_eq!(service.select(&to(1, 0)), Some(0));
        carry(&service.dests[0], 2, 3);
        assert_eq!(service.select(&to(1, 5)), Some(0));
        assert_eq!(
            service.select(&to(2, 5)),
            Some(1),
            "another destination goes by load"
        );
    }

    #[test]
    fn a_server_above_its_weight_is_left_when_another_is_half_idle() {
        let service = Service::new("lblc", &[], list(&[2, 4]));
        assert_eq!(service.select(&to(1, 0)), Some(0));
        carry(&service.dests[1], 2, 0);
        carry(&service.dests[0], 3, 0);
        assert_eq!(
            service.select(&to(1, 0)),
            Some(0),
            "none has less than half of its weight"
        );
        service.dests[1].unbind(true);
        assert_eq!(service.select(&to(1, 0)), Some(1));
        carry(&service.dests[1], 3, 0);
        assert_eq!(
            service.select(&to(1, 0)),
            Some(1),
            "the new server is remembered"
        );
    }

    #[test]
    fn an_overloaded_quiesced_or_removed_server_is_not_used_from_memory() {
        let mut service = Service::new("lblc", &[], list(&[1, 1, 1]));
        assert_eq!(service.select(&to(1, 0)), Some(0));
        carry(&service.dests[0], 0, 1);
        overload(&service.dests[0], true);
        assert_eq!(service.select(&to(1, 0)), Some(1));
        let mut dests = service.dests.clone();
        dests[1] = reweighted(&dests[1], 0);
        service.rebuild(dests);
        assert_eq!(service.select(&to(1, 0)), Some(2));
        service.rebuild(service.dests[..2].to_vec());
        assert_eq!(service.select(&to(1, 0)), None);
    }

    #[test]
    fn memory_outlives_a_rebuild_and_ends_after_a_day_unused() {
        let mut service = Service::new("lblc", &[], list(&[9, 9]));
        assert_eq!(service.select(&to(1, 0)), Some(0));
        carry(&service.dests[0], 1, 0);
        service.rebuild(service.dests.clone());
        assert_eq!(service.select(&to(1, EXPIRY - 1)), Some(0));
        assert_eq!(service.select(&to(1, 2 * EXPIRY)), Some(1));
    }

    /// Specification §6.11 with an unbounded map.
    #[test]
    fn choices_are_those_of_the_specification() {
        let service = Service::new("lblc", &[], list(&[1, 3, 2, 0]));
        let wlc = Service::new("wlc", &[], service.dests.clone());
        let mut memory = std::collections::HashMap::new();
        for n in 0..4_000u64 {
            let random = super::super::hash::nth(3, n);
            let addr = (random % 50) as u32;
            let dests = &service.dests;
            let half_idle = dests.iter().any(|d| d.shared.active() * 2 < d.weight);
            let usable = |&i: &usize| !(dests[i].shared.active() > dests[i].weight && half_idle);
            let known = memory.get(&addr).copied().filter(usable);
            let expected = known.or_else(|| wlc.next()).expect("none is overloaded");
            memory.insert(addr, expected);
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
