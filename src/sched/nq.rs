//! `nq`, never queue (specification §6.6).

use std::sync::Arc;

use super::load::{expected_delay, least};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct NeverQueue;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(NeverQueue)
}

impl Scheduler for NeverQueue {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        let idle = |dest: &Arc<Dest>| {
            dest.eligible_counts()
                .is_some_and(|counts| counts.active == 0)
        };
        dests
            .iter()
            .position(idle)
            .or_else(|| least(dests, expected_delay))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};

    #[test]
    fn an_idle_server_goes_before_a_faster_one() {
        let service = Service::new("nq", &[], list(&[100, 1, 1]));
        carry(&service.dests[0], 1, 0);
        carry(&service.dests[1], 0, 5);
        assert_eq!(service.next(), Some(1));
        carry(&service.dests[1], 1, 0);
        carry(&service.dests[2], 1, 0);
        assert_eq!(service.next(), Some(0), "as sed when none is idle");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_idle_server_or_that_of_sed(dests in loaded_servers()) {
            let idle = eligible(&dests).into_iter().find(|s| s.2 == 0).map(|s| s.0);
            let sed = Service::new("sed", &[], dests.clone()).next();
            prop_assert_eq!(Service::new("nq", &[], dests).next(), idle.or(sed));
        }
    }
}
