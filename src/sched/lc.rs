//! `lc`, least connection (specification §6.3).

use std::sync::Arc;

use super::load::{Load, least, overhead};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct LeastConnection;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(LeastConnection)
}

impl Scheduler for LeastConnection {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        least(dests, |_, counts| Load {
            cost: overhead(counts),
            weight: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};

    #[test]
    fn an_active_connection_weighs_as_much_as_257_inactive_ones_and_the_first_wins_ties() {
        let service = Service::new("lc", &[], list(&[1, 1]));
        carry(&service.dests[0], 1, 0);
        carry(&service.dests[1], 0, 256);
        assert_eq!(service.next(), Some(1));
        carry(&service.dests[1], 0, 1);
        assert_eq!(service.next(), Some(0), "257 against 257");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_of_the_smallest_overhead(dests in loaded_servers()) {
            let overhead = |&(_, _, active, total): &(usize, u64, u64, u64)| active * 256 + total;
            let expected = eligible(&dests).into_iter().min_by_key(overhead).map(|s| s.0);
            prop_assert_eq!(Service::new("lc", &[], dests).next(), expected);
        }
    }
}
