//! `hprio`, weighted high priority: the servers of the highest weight take the connections in turn; when all of them
//! are overloaded, those of the next weight do, with the very next connection.
//!
//! Polder's own. Tiers are made when the scheduler is built. Each has its own round-robin position, so that a tier
//! that was left goes on where it was. A decision takes the same time whatever is overloaded ([`Tiers`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ring::Tiers;
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct HighPriority(Tiers);

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let (weights, positions): (Vec<u32>, Vec<_>) = positions(build).into_iter().rev().unzip();
    // From the highest weight down.
    let tier = |dest: &Dest| weights.binary_search_by(|w| dest.weight.cmp(w)).ok();
    Box::new(HighPriority(Tiers::new(
        build.dests,
        build.previous,
        positions,
        tier,
    )))
}

/// The position of each tier, by weight; those of tiers that are no more are forgotten.
fn positions(build: &Build<'_>) -> BTreeMap<u32, Arc<AtomicU64>> {
    build.state.with("hprio", |kept| {
        let mut positions = BTreeMap::new();
        for weight in build
            .dests
            .iter()
            .map(|dest| dest.weight)
            .filter(|&weight| weight > 0)
        {
            let known = || kept.positions.get(&weight).cloned().unwrap_or_default();
            positions.entry(weight).or_insert_with(known);
        }
        kept.positions.clone_from(&positions);
        positions
    })
}

impl Scheduler for HighPriority {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        self.0.next(dests)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::select_and_reserve;
    use super::super::testkit::{
        Service, carry, eligible, list, loaded_servers, overload, reweighted, server,
    };
    use super::*;

    /// Three servers of weight 5 with thresholds 50 and 20, and a spill-over of weight 1 without.
    fn author_example() -> Service {
        let tier = |id| Dest {
            upper_threshold: 50,
            lower_threshold: 20,
            ..server(id, 5)
        };
        let spill = Dest {
            upper_threshold: 0,
            ..server(3, 1)
        };
        Service::new(
            "hprio",
            &[],
            [spill, tier(2), tier(1), tier(0)].map(Arc::new).into(),
        )
    }

    fn reserve(service: &Service) -> Option<usize> {
        select_and_reserve(&*service.scheduler, &service.dests, &Selection::default())
    }

    fn totals(service: &Service) -> Vec<u32> {
        service
            .dests
            .iter()
            .map(|dest| dest.shared.total())
            .collect()
    }

    #[test]
    fn the_first_tier_fills_in_turn_and_connection_151_spills_over() {
        let service = author_example();
        for n in 0..150 {
            assert_eq!(reserve(&service), Some(1 + n % 3));
        }
        assert_eq!(reserve(&service), Some(0));
        assert_eq!(totals(&service), [1, 50, 50, 50]);
    }

    #[test]
    fn new_connections_return_to_a_server_that_fell_below_its_low_mark() {
        let service = author_example();
        for _ in 0..150 {
            reserve(&service);
        }
        for _ in 0..30 {
            service.dests[2].unbind(false);
        }
        assert_eq!(reserve(&service), Some(0), "20 is not below 20");
        service.dests[2].unbind(false);
        for _ in 0..31 {
            assert_eq!(reserve(&service), Some(2));
        }
        assert_eq!(reserve(&service), Some(0));
    }

    #[test]
    fn a_tier_that_was_left_goes_on_where_it_was() {
        let service = Service::new("hprio", &[], list(&[1, 5, 5, 5]));
        assert_eq!(service.sequence(2), "BC");
        let tier = &service.dests[1..];
        tier.iter().for_each(|dest| carry(dest, 0, 1));
        tier.iter().for_each(|dest| overload(dest, true));
        assert_eq!(service.sequence(2), "AA");
        tier.iter().for_each(|dest| overload(dest, false));
        assert_eq!(service.sequence(3), "DBC");
    }

    #[test]
    fn a_tier_that_is_down_hands_over_and_takes_back() {
        let mut service = Service::new("hprio", &[], list(&[5, 5, 1]));
        assert_eq!(service.sequence(1), "A");
        let both = |weight| {
            let dests = list(&[5, 5, 1]);
            vec![
                reweighted(&dests[0], weight),
                reweighted(&dests[1], weight),
                dests[2].clone(),
            ]
        };
        service.rebuild(both(0));
        assert_eq!(service.sequence(2), "CC");
        service.rebuild(both(5));
        assert_eq!(service.sequence(2), "AB");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_heaviest_eligible_servers_take_turns(
            dests in loaded_servers(),
            flips in prop::collection::vec((0..9usize, any::<bool>()), 1..30),
        ) {
            let service = Service::new("hprio", &[], dests);
            let dests = &service.dests;
            let mut last = BTreeMap::new();
            for (at, flag) in flips {
                if dests.get(at).is_some_and(|dest| dest.shared.total() > 0) {
                    overload(&dests[at], flag);
                }
                let servers = eligible(dests);
                let top = servers.iter().map(|s| s.1).max();
                let in_tier = servers.iter().filter(|s| Some(s.1) == top);
                let tier: Vec<usize> = in_tier.map(|s| s.0).collect();
                let after = top.and_then(|weight| last.get(&weight).copied());
                let later = tier.iter().find(|&&i| after.is_none_or(|a| i > a));
                let next = later.or_else(|| tier.first()).copied();
                if let (Some(weight), Some(index)) = (top, next) {
                    last.insert(weight, index);
                }
                prop_assert_eq!(service.next(), next);
            }
        }
    }
}
