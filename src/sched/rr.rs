//! `rr`, round robin (specification §6.1).

use std::sync::Arc;

use super::ring::Tiers;
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct RoundRobin(Tiers);

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let position = build
        .state
        .with("rr", |kept| kept.positions.entry(0).or_default().clone());
    Box::new(RoundRobin(Tiers::new(
        build.dests,
        build.previous,
        vec![position],
        |_| Some(0),
    )))
}

impl Scheduler for RoundRobin {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        self.0.next(dests)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, list, overload, reweighted, server};
    use super::*;
    use crate::table::DestId;

    #[test]
    fn servers_take_turns_from_the_head_of_the_list() {
        assert_eq!(
            Service::new("rr", &[], list(&[1, 9, 2])).sequence(7),
            "ABCABCA"
        );
    }

    #[test]
    fn quiesced_and_overloaded_servers_are_passed_over() {
        let service = Service::new("rr", &[], list(&[1, 0, 1, 1]));
        carry(&service.dests[3], 1, 0);
        overload(&service.dests[3], true);
        assert_eq!(service.sequence(4), "ACAC");
        overload(&service.dests[3], false);
        assert_eq!(service.sequence(4), "DACD");
    }

    #[test]
    fn a_server_that_is_added_does_not_move_the_turn() {
        let mut service = Service::new("rr", &[], list(&[1, 1, 1]));
        assert_eq!(service.sequence(2), "AB");
        let mut dests = service.dests.clone();
        dests.insert(0, Arc::new(server(9, 1)));
        service.rebuild(dests);
        assert_eq!(service.sequence(5), "DABCD");
    }

    #[test]
    fn a_removed_server_hands_its_turn_to_its_predecessor() {
        let mut service = Service::new("rr", &[], list(&[1, 1, 1, 1]));
        assert_eq!(service.sequence(3), "ABC");
        let (a, d) = (service.dests[0].clone(), service.dests[3].clone());
        service.rebuild(vec![a, d]);
        assert_eq!(service.sequence(3), "BAB");
    }

    #[test]
    fn workers_that_still_have_the_older_list_lose_no_turn() {
        let older = Service::new("rr", &[], list(&[1, 1, 1]));
        let newer = older.successor(vec![older.dests[0].clone(), older.dests[2].clone()]);
        assert_eq!(older.sequence(2), "AB");
        assert_eq!(
            newer.sequence(2),
            "BA",
            "B of the older list is gone; A comes before it"
        );
    }

    /// Specification §6.1 on a plain list.
    struct Naive {
        last: Option<DestId>,
    }

    impl Naive {
        fn next(&mut self, dests: &[Arc<Dest>]) -> Option<usize> {
            let start = dests
                .iter()
                .position(|d| Some(d.id) == self.last)
                .map_or(0, |i| i + 1);
            let walk = (0..dests.len()).map(|step| (start + step) % dests.len());
            let chosen = walk
                .into_iter()
                .find(|&i| dests[i].weight > 0 && !dests[i].shared.overloaded())?;
            self.last = Some(dests[chosen].id);
            Some(chosen)
        }

        fn remove(&mut self, dests: &mut Vec<Arc<Dest>>, at: usize) {
            if self.last == Some(dests[at].id) {
                self.last = at.checked_sub(1).map(|before| dests[before].id);
            }
            dests.remove(at);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn turns_are_those_of_the_specification_through_every_edit(
            ops in prop::collection::vec((0..10u8, 0..8usize, 0..3u32), 1..80)
        ) {
            let mut service = Service::new("rr", &[], list(&[1, 1, 1]));
            let (mut naive, mut next_id) = (Naive { last: None }, 100);
            for (op, at, weight) in ops {
                let mut dests = service.dests.clone();
                match op {
                    0..=5 => prop_assert_eq!(service.next(), naive.next(&dests)),
                    6 => {
                        dests.insert(0, Arc::new(server(next_id, weight)));
                        carry(&dests[0], 1, 0);
                        next_id += 1;
                        service.rebuild(dests);
                    }
                    7 if at < dests.len() => {
                        naive.remove(&mut dests, at);
                        service.rebuild(dests);
                    }
                    8 if at < dests.len() => {
                        dests[at] = reweighted(&dests[at], weight);
                        service.rebuild(dests);
                    }
                    9 if at < dests.len() && dests[at].shared.total() > 0 => {
                        overload(&dests[at], weight > 0);
                    }
                    _ => {}
                }
            }
        }
    }
}
