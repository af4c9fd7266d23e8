//! `twos`, power of two choices: the less loaded of two servers drawn by weight (specification §6.13).

use std::sync::Arc;

use super::hash::{nth, scale};
use super::load::weighted;
use super::{Build, Flags, Scheduler, Selection};
use crate::table::{Counts, Dest};

#[derive(Debug)]
struct TwoChoices;

pub(super) fn build(_: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    Box::new(TwoChoices)
}

/// A server as it was found on the walk.
type Drawn = (usize, Counts);

impl Scheduler for TwoChoices {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let eligible = dests.iter().filter(|dest| dest.eligible());
        let sum: u64 = eligible.map(|dest| u64::from(dest.weight)).sum();
        // Both ends count, which gives the first server one ticket more (specification §6.13).
        let tickets = sum + 1;
        let draws = [0, 1].map(|n| scale(nth(selection.random, n), tickets));
        let [first, second] = draw(dests, draws)?;
        let load = |(index, counts): Drawn| weighted(&dests[index], counts);
        Some(if load(first).exceeds(load(second)) {
            second.0
        } else {
            first.0
        })
    }
}

/// The servers at which the draws are used up. Where a server became overloaded since the weights were summed, a draw
/// may be left over: it is then the last server's.
fn draw(dests: &[Arc<Dest>], mut draws: [u64; 2]) -> Option<[Drawn; 2]> {
    let mut chosen = [None; 2];
    let mut last = None;
    for (index, dest) in dests.iter().enumerate() {
        let Some(counts) = dest.eligible_counts() else {
            continue;
        };
        last = Some((index, counts));
        for (draw, chosen) in draws.iter_mut().zip(&mut chosen) {
            *draw = draw.saturating_sub(u64::from(dest.weight));
            if *draw == 0 && chosen.is_none() {
                *chosen = last;
            }
        }
        if let [Some(first), Some(second)] = chosen {
            return Some([first, second]);
        }
    }
    last.map(|last| chosen.map(|chosen| chosen.unwrap_or(last)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, eligible, list, loaded_servers};
    use super::*;

    fn shares(service: &Service, rounds: u64) -> Vec<f64> {
        let mut shares = vec![0.0; service.dests.len()];
        for random in 0..rounds {
            let selection = Selection {
                random,
                ..Selection::default()
            };
            let index = service.select(&selection).expect("all can be chosen");
            shares[index] += 1.0 / rounds as f64;
        }
        shares
    }

    #[test]
    fn idle_servers_are_drawn_by_weight_with_one_ticket_more_for_the_first() {
        let shares = shares(&Service::new("twos", &[], list(&[1, 2, 5])), 90_000);
        for (share, expected) in shares.iter().zip([2.0 / 9.0, 2.0 / 9.0, 5.0 / 9.0]) {
            assert!((share - expected).abs() < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn the_less_loaded_of_the_two_is_taken() {
        let service = Service::new("twos", &[], list(&[4, 5]));
        carry(&service.dests[0], 9, 0);
        // Draws are 0..=9, five of which are the first server's: both must be.
        let shares = shares(&service, 40_000);
        assert!((shares[0] - 0.25).abs() < 0.01, "{shares:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_choice_is_that_of_a_walk_for_each_draw(dests in loaded_servers(), random: u64) {
            let servers = eligible(&dests);
            let sum: u64 = servers.iter().map(|s| s.1).sum();
            let walk = |n| {
                let mut left = i128::from(scale(nth(random, n), sum + 1));
                servers.iter().find(|s| { left -= i128::from(s.1); left <= 0 })
            };
            let expected = walk(0).zip(walk(1)).map(|(first, second)| {
                let (o1, o2) = (first.2 * 256 + first.3, second.2 * 256 + second.3);
                if second.1 * o1 > first.1 * o2 { second.0 } else { first.0 }
            });
            let selection = Selection { random, ..Selection::default() };
            prop_assert_eq!(Service::new("twos", &[], dests).select(&selection), expected);
        }
    }
}
