//! `wlc`, weighted least connection, the default (specification §6.4).

use std::sync::Arc;

use super::load::{least, weighted};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct WeightedLeastConnection;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(WeightedLeastConnection)
}

impl Scheduler for WeightedLeastConnection {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        least(dests, weighted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};

    #[test]
    fn load_counts_in_proportion_to_weight_and_the_first_wins_ties() {
        let service = Service::new("wlc", &[], list(&[1, 3]));
        carry(&service.dests[0], 1, 0);
        carry(&service.dests[1], 2, 0);
        assert_eq!(service.next(), Some(1));
        carry(&service.dests[1], 1, 0);
        assert_eq!(service.next(), Some(0), "1 to 1 against 3 to 3");
    }

    #[test]
    fn idle_servers_tie_whatever_their_weights() {
        assert_eq!(Service::new("wlc", &[], list(&[1, 9])).next(), Some(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_of_the_smallest_overhead_by_weight(dests in loaded_servers()) {
            let expected = eligible(&dests).into_iter().min_by(|a, b| {
                ((a.2 * 256 + a.3) * b.1).cmp(&((b.2 * 256 + b.3) * a.1))
            });
            prop_assert_eq!(Service::new("wlc", &[], dests).next(), expected.map(|s| s.0));
        }
    }
}
