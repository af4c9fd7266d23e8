//! `fo`, weighted fail-over: everything to the server of the highest weight (specification §6.7).

use std::sync::Arc;

use super::{Build, Flags, Scheduler, Selection};
use crate::table::{Counts, Dest};

#[derive(Debug)]
struct FailOver;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(FailOver)
}

impl Scheduler for FailOver {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        heaviest(dests, |_, _| true)
    }
}

/// The eligible server of the highest weight for which `takes` holds; the first of the list wins ties.
pub(super) fn heaviest(
    dests: &[Arc<Dest>],
    takes: impl Fn(&Dest, Counts) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    for (index, dest) in dests.iter().enumerate() {
        let taken = dest
            .eligible_counts()
            .is_some_and(|counts| takes(dest, counts));
        if taken && best.is_none_or(|(_, weight)| dest.weight > weight) {
            best = Some((index, dest.weight));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers, overload};

    #[test]
    fn all_goes_to_the_heaviest_until_it_is_overloaded() {
        let service = Service::new("fo", &[], list(&[1, 5, 5]));
        assert_eq!(service.sequence(3), "BBB");
        carry(&service.dests[1], 0, 1);
        overload(&service.dests[1], true);
        assert_eq!(service.sequence(3), "CCC");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_the_first_of_the_highest_weight(dests in loaded_servers()) {
            let expected = eligible(&dests).into_iter().min_by_key(|s| Reverse(s.1)).map(|s| s.0);
            prop_assert_eq!(Service::new("fo", &[], dests).next(), expected);
        }
    }
}
