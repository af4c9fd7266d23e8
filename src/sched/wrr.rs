//! `wrr`, weighted round robin (specification §6.2).
//!
//! The specification walks the list once per value of `cw`. Here a tree of the weights of open servers finds the next
//! one of enough weight in logarithmic time, and passes in which no server could be chosen are skipped by arithmetic,
//! so that the order is the same and the cost grows neither with the weights nor with the servers that are overloaded.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::hash::gcd;
use super::weight_tree::WeightTree;
use super::{Build, Flags, Scheduler, Selection, advance, edited};
use crate::table::Dest;

#[derive(Debug)]
struct WeightedRoundRobin {
    /// [`Position`], packed.
    position: Arc<AtomicU64>,
    pace: Pace,
    weights: Arc<WeightTree>,
}

/// What the weights of the list as it was after some edit say about `cw`.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The edit, counted modulo 2^12.
    edit: u32,
    /// Greatest common divisor of the weights above 0.
    di: u32,
    /// Highest value of `cw`.
    mw: u32,
}

/// Where the walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    /// The edit that the position belongs to, modulo 2^12.
    edit: u32,
    /// First server to look at: one past the one used last, 0 at the head of the list.
    next: usize,
    /// Least weight that is chosen in this pass.
    cw: u32,
}

impl Position {
    const EDIT_BITS: u32 = 12;
    const NEXT_BITS: u32 = 20;
    const EDIT_MASK: u32 = (1 << Self::EDIT_BITS) - 1;

    #[allow(clippy::cast_possible_truncation)]
    fn unpack(word: u64) -> Self {
        let high = (word >> 32) as u32;
        let next = (high & ((1 << Self::NEXT_BITS) - 1)) as usize;
        Self {
            edit: high >> Self::NEXT_BITS,
            next,
            cw: word as u32,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.edit) << (32 + Self::NEXT_BITS)
            | (self.next as u64) << 32
            | u64::from(self.cw)
    }
}

pub(super) fn build(build: &Build<'_>, _: Flags) -> Box<dyn Scheduler> {
    let edited = edited(build.previous, build.dests);
    let (position, edit) = build.state.with("wrr", |kept| {
        let position = kept.positions.entry(0).or_default().clone();
        // Were the last edit still pending here, it would be skipped: each adjusts what the one before left.
        Pace::new(build.previous, kept.edits).catch_up(&position);
        kept.edits = kept.edits.wrapping_add(u32::from(edited)) & Position::EDIT_MASK;
        (position, kept.edits)
    });
    let pace = Pace::new(build.dests, edit);
    Box::new(WeightedRoundRobin {
        position,
        pace,
        weights: WeightTree::watching(build.dests),
    })
}

impl Pace {
    fn new(dests: &[Arc<Dest>], edit: u32) -> Self {
        let di = dests.iter().fold(0, |d, dest| gcd(d, dest.weight)).max(1);
        let most = dests.iter().map(|dest| dest.weight).max().unwrap_or(0);
        Self {
            edit,
            di,
            mw: most.saturating_sub(di - 1),
        }
    }

    /// The position to go on from. One that was left before the edit starts again at the head, with `cw` adjusted
    /// (specification §6.2). That is done at the first choice rather than at the build, so that what workers do with
    /// the older scheduler in between does not count. A worker that still has an older scheduler goes on from the
    /// newer position.
    fn place(self, at: Position) -> Position {
        let age = self.edit.wrapping_sub(at.edit) & Position::EDIT_MASK;
        if age == 0 || age > Position::EDIT_MASK / 2 {
            return Position {
                cw: if at.cw == 0 {
                    self.mw
                } else {
                    at.cw.min(self.mw)
                },
                ..at
            };
        }
        let cw = if at.cw == 0 || at.cw > self.mw {
            self.mw
        } else if self.di > 1 {
            at.cw / self.di * self.di + 1
        } else {
            at.cw
        };
        Position {
            edit: self.edit,
            next: 0,
            cw: cw.min(self.mw),
        }
    }

    /// Takes the position over this edit now, if no choice did yet.
    fn catch_up(self, position: &AtomicU64) {
        advance(position, |word| {
            let at = Position::unpack(word);
            let pending = at.edit != self.edit;
            (if pending { self.place(at).pack() } else { word }, None)
        });
    }
}

impl Scheduler for WeightedRoundRobin {
    fn select(&self, dests: &[Arc<Dest>], _: &Selection<'_>) -> Option<usize> {
        if self.pace.mw == 0 {
            return None;
        }
        advance(&self.position, |word| {
            let at = self.pace.place(Position::unpack(word));
            match self.walk(at, dests) {
                Some((index, cw)) => (
                    Position {
                        next: index + 1,
                        cw,
                        ..at
                    }
                    .pack(),
                    Some(index),
                ),
                // A whole pass at the lowest value found nothing: the next one starts at the highest.
                None => (
                    Position {
                        cw: self.pace.mw,
                        ..at
                    }
                    .pack(),
                    None,
                ),
            }
        })
    }
}

impl WeightedRoundRobin {
    /// The server that the walk comes to next, and the value of `cw` it is chosen at.
    fn walk(&self, at: Position, dests: &[Arc<Dest>]) -> Option<(usize, u32)> {
        let Pace { di, mw, .. } = self.pace;
        if let Some(index) = self.open_from(at.next, at.cw, dests) {
            return Some((index, at.cw));
        }
        if at.next == 0 && at.cw <= di {
            return None;
        }
        let mut cw = if at.cw > di { at.cw - di } else { mw };
        // Whole passes from here on: go straight to the first that may have a server to choose. Where those that seemed
        // open turn out to be overloaded, which closes them, to the next.
        loop {
            let most = Some(self.weights.most()).filter(|&most| most > 0)?;
            let skipped = cw.saturating_sub(most).div_ceil(di).saturating_mul(di);
            cw = cw.saturating_sub(skipped).max(1);
            if let Some(index) = self.open_from(0, cw, dests) {
                return Some((index, cw));
            }
            cw = cw.checked_sub(di).filter(|&cw| cw > 0)?;
        }
    }

    /// The first server at or after `from` that has weight `cw` and is not overloaded.
    fn open_from(&self, mut from: usize, cw: u32, dests: &[Arc<Dest>]) -> Option<usize> {
        loop {
            let index = self.weights.next(from, cw)?;
            if dests[index].eligible() {
                return Some(index);
            }
            self.weights.close(index, || dests[index].eligible());
            from = index + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, list, overload, reweighted, server};
    use super::*;

    #[test]
    fn a_position_survives_packing() {
        let at = Position {
            edit: 0xabc,
            next: 0xf_0f0f,
            cw: 0xdead_beef,
        };
        assert_eq!(Position::unpack(at.pack()), at);
    }

    /// Specification §6.2 and §14.6.
    #[test]
    fn the_order_is_that_of_the_worked_examples() {
        let table: [(&[u32], &str); 5] = [
            (&[4, 3, 2], "AABABCABCAABABCABC"),
            (&[6, 4], "AABABAABAB"),
            (&[2, 0, 1], "AACAAC"),
            (&[1, 1, 1], "ABCABC"),
            (&[0, 7], "BBB"),
        ];
        for (weights, order) in table {
            let service = Service::new("wrr", &[], list(weights));
            assert_eq!(service.sequence(order.len()), order, "{weights:?}");
        }
    }

    #[test]
    fn a_reload_that_changes_no_server_keeps_the_turn() {
        let mut service = Service::new("wrr", &[], list(&[4, 3, 2]));
        assert_eq!(service.sequence(4), "AABA");
        service.rebuild(service.dests.clone());
        assert_eq!(service.sequence(5), "BCABC");
    }

    #[test]
    fn workers_that_still_have_the_older_list_do_not_use_up_the_fresh_start() {
        let older = Service::new("wrr", &[], list(&[1, 1, 1]));
        let mut dests = older.dests.clone();
        dests[1] = reweighted(&dests[1], 2);
        let newer = older.successor(dests);
        assert_eq!(older.sequence(2), "AB");
        assert_eq!(
            newer.sequence(4),
            "ABCB",
            "cw was 1 and di is 1, so the head is next at 1"
        );
        assert_eq!(
            older.sequence(1),
            "C",
            "an older list goes on from the newer position"
        );
    }

    #[test]
    fn a_skipped_pass_costs_no_walk_however_large_the_weights() {
        let service = Service::new("wrr", &[], list(&[u32::MAX, 1]));
        carry(&service.dests[0], 1, 0);
        overload(&service.dests[0], true);
        assert_eq!(service.sequence(3), "BBB");
        overload(&service.dests[0], false);
        assert_eq!(service.sequence(3), "AAA");
    }

    /// Specification §6.2, pass by pass.
    #[derive(Default)]
    struct Naive {
        /// One past `cl`; 0 is the head.
        next: usize,
        cw: i64,
        di: i64,
        mw: i64,
    }

    impl Naive {
        fn edit(&mut self, dests: &[Arc<Dest>]) {
            let weights: Vec<i64> = dests.iter().map(|d| i64::from(d.weight)).collect();
            let most = weights.iter().copied().max().unwrap_or(0);
            let divides = |d: &i64| weights.iter().all(|w| w % d == 0);
            self.di = (1..=most).rev().find(divides).unwrap_or(1);
            self.mw = most - (self.di - 1);
            self.next = 0;
            if self.cw > self.mw || self.cw == 0 {
                self.cw = self.mw;
            } else if self.di > 1 {
                self.cw = self.cw / self.di * self.di + 1;
            }
        }

        fn next(&mut self, dests: &[Arc<Dest>]) -> Option<usize> {
            if self.mw == 0 {
                return None;
            }
            let mut from = self.next;
            loop {
                let fits = |i: &usize| {
                    i64::from(dests[*i].weight) >= self.cw && !dests[*i].shared.overloaded()
                };
                if let Some(found) = (from..dests.len()).find(fits) {
                    self.next = found + 1;
                    return Some(found);
                }
                let last_pass = from == 0 && self.cw <= self.di;
                self.cw -= self.di;
                if self.cw <= 0 {
                    self.cw = self.mw;
                }
                if last_pass {
                    return None;
                }
                from = 0;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn turns_are_those_of_the_specification_through_every_edit(
            weights in prop::collection::vec(0..7u32, 0..6),
            scale in 1..4u32,
            ops in prop::collection::vec((0..10u8, 0..6usize, 0..7u32), 1..80),
        ) {
            let weights: Vec<u32> = weights.iter().map(|w| w * scale).collect();
            let mut service = Service::new("wrr", &[], list(&weights));
            let (mut naive, mut next_id) = (Naive::default(), 100);
            naive.edit(&service.dests);
            service.dests.iter().for_each(|dest| carry(dest, 0, 1));
            for (op, at, weight) in ops {
                let mut dests = service.dests.clone();
                match op {
                    0..=5 => prop_assert_eq!(service.next(), naive.next(&dests)),
                    6 => {
                        dests.insert(0, Arc::new(server(next_id, weight * scale)));
                        carry(&dests[0], 0, 1);
                        next_id += 1;
                    }
                    7 if at < dests.len() => drop(dests.remove(at)),
                    8 if at < dests.len() && dests[at].weight != weight * scale => {
                        dests[at] = reweighted(&dests[at], weight * scale);
                    }
                    9 if at < dests.len() => overload(&dests[at], weight > 3),
                    _ => {}
                }
                if edited(&service.dests, &dests) {
                    naive.edit(&dests);
                    service.rebuild(dests);
                }
            }
        }
    }
}
