//! `ovf`, weighted overflow: the heaviest server until it has as many active connections as its weight
//! (specification §6.7).

use std::sync::Arc;

use super::fo::heaviest;
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

#[derive(Debug)]
struct Overflow;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(Overflow)
}

impl Scheduler for Overflow {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        // At most as many, not fewer: a server takes one active connection more than its weight.
        heaviest(dests, |dest, counts| counts.active <= dest.weight)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};

    #[test]
    fn a_server_takes_one_active_connection_more_than_its_weight_and_then_overflows() {
        let service = Service::new("ovf", &[], list(&[1, 2]));
        carry(&service.dests[1], 2, 50);
        assert_eq!(service.next(), Some(1));
        carry(&service.dests[1], 1, 0);
        assert_eq!(service.next(), Some(0));
        carry(&service.dests[0], 2, 0);
        assert_eq!(service.next(), None, "all are over their weights");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_of_the_highest_weight_with_room(dests in loaded_servers()) {
            let room = eligible(&dests).into_iter().filter(|s| s.2 <= s.1);
            let expected = room.min_by_key(|s| Reverse(s.1)).map(|s| s.0);
            prop_assert_eq!(Service::new("ovf", &[], dests).next(), expected);
        }
    }
}
