//! `sed`, shortest expected delay (specification §6.5).

use std::sync::Arc;

use super::load::{expected_delay, least};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct ShortestExpectedDelay;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(ShortestExpectedDelay)
}

impl Scheduler for ShortestExpectedDelay {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        least(dests, expected_delay)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};

    #[test]
    fn inactive_connections_do_not_count_and_the_new_one_does() {
        let service = Service::new("sed", &[], list(&[1, 3]));
        carry(&service.dests[1], 1, 100);
        assert_eq!(service.next(), Some(1), "1 to 1 against 2 to 3");
        carry(&service.dests[1], 1, 0);
        assert_eq!(service.next(), Some(0), "1 to 1 against 3 to 3");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_of_the_shortest_delay(dests in loaded_servers()) {
            let expected = eligible(&dests)
                .into_iter()
                .min_by(|a, b| ((a.2 + 1) * b.1).cmp(&((b.2 + 1) * a.1)));
            prop_assert_eq!(Service::new("sed", &[], dests).next(), expected.map(|s| s.0));
        }
    }
}
