//! A tree of servers' weights, in which the next open server of enough weight is found in logarithmic time.
//!
//! As [`super::open_set`], of which it is the weighted form: it holds at least every server that may take a connection,
//! with its weight; one that is found not to is closed, and opened again when it is told. The upper half of each node
//! counts openings, so that closing fails when one came in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::open_set::watch;
use crate::table::{Dest, Openings};

/// One opening, in the count of a node.
const OPENING: u64 = 1 << 32;

/// A complete binary tree whose inner nodes hold the greatest weight of the open servers below them.
#[derive(Debug)]
pub(super) struct WeightTree {
    /// The root is at 1, the children of `n` at `2n` and `2n + 1`.
    nodes: Box<[AtomicU64]>,
    /// Of each server, open or not.
    weights: Box<[u32]>,
    /// Where the leaves begin.
    leaves: usize,
}

impl WeightTree {
    /// A tree of all of `dests`, told by those of weight above 0.
    pub(super) fn watching(dests: &[Arc<Dest>]) -> Arc<Self> {
        let tree = Arc::new(Self::new(dests.iter().map(|dest| dest.weight).collect()));
        watch(&tree, dests.iter());
        tree
    }

    fn new(weights: Box<[u32]>) -> Self {
        let leaves = weights.len().next_power_of_two();
        let mut nodes = vec![0; 2 * leaves];
        for (node, &weight) in nodes[leaves..].iter_mut().zip(&weights) {
            *node = u64::from(weight);
        }
        for n in (1..leaves).rev() {
            nodes[n] = nodes[2 * n].max(nodes[2 * n + 1]);
        }
        Self {
            nodes: nodes.into_iter().map(AtomicU64::new).collect(),
            weights,
            leaves,
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn weight(&self, node: usize) -> u32 {
        self.nodes[node].load(Ordering::Acquire) as u32
    }

    /// The greatest weight of an open server; 0 when none is.
    pub(super) fn most(&self) -> u32 {
        // Without servers there is one leaf, which is the root.
        self.weight(1)
    }

    /// The first open server at or after `from` whose weight is at least `least`, which is above 0.
    pub(super) fn next(&self, mut from: usize, least: u32) -> Option<usize> {
        while from < self.weights.len() {
            let mut node = self.leaves + from;
            while self.weight(node) < least {
                // The highest node that begins right after this one; the root when there is nothing after.
                node += 1;
                node >>= node.trailing_zeros();
                if node == 1 {
                    return None;
                }
            }
            while node < self.leaves {
                node *= 2;
                node += usize::from(self.weight(node) < least);
            }
            if self.weight(node) >= least {
                return Some(node - self.leaves);
            }
            // A worker has closed the server and not yet said so above.
            from = node - self.leaves + 1;
        }
        None
    }

    /// Takes out a server that may take nothing, unless `may_take` by now.
    pub(super) fn close(&self, index: usize, may_take: impl Fn() -> bool) {
        let mut node = self.leaves + index;
        while node > 0 {
            // Lock-free, and no opening is lost: see `OpenSet::close`.
            let closed =
                self.nodes[node].fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                    let most = if node >= self.leaves {
                        if may_take() { self.weights[index] } else { 0 }
                    } else {
                        self.weight(2 * node).max(self.weight(2 * node + 1))
                    };
                    (u64::from(most) < word % OPENING)
                        .then_some(word - word % OPENING + u64::from(most))
                });
            if closed.is_err() {
                return;
            }
            node /= 2;
        }
    }
}

impl Openings for WeightTree {
    fn open(&self, place: usize) {
        let weight = u64::from(self.weights[place]);
        let mut node = self.leaves + place;
        while node > 0 {
            // Counted even where nothing rises, for a worker may be about to lower it. The update can't be refused.
            let _ = self.nodes[node].fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let most = weight.max(word % OPENING);
                Some((word - word % OPENING).wrapping_add(OPENING) + most)
            });
            node /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_tree_finds_what_a_scan_finds(
            weights in prop::collection::vec(0..6u32, 0..40),
            ops in prop::collection::vec((0..40usize, any::<bool>(), 0..45usize, 1..7u32), 1..40),
        ) {
            let tree = WeightTree::new(weights.clone().into());
            let mut open = weights.clone();
            for (at, opens, from, least) in ops {
                if at < weights.len() && opens {
                    tree.open(at);
                    open[at] = weights[at];
                } else if at < weights.len() {
                    tree.close(at, || false);
                    open[at] = 0;
                }
                let scan = (from..open.len()).find(|&i| open[i] >= least);
                prop_assert_eq!(tree.next(from, least), scan);
                prop_assert_eq!(tree.most(), open.iter().copied().max().unwrap_or(0));
            }
        }
    }

    #[test]
    fn an_opening_that_is_complete_is_never_missed() {
        const OWN: [usize; 4] = [0, 1, 7, 12];
        let tree = WeightTree::new((1..14).collect());
        std::thread::scope(|scope| {
            for mine in OWN {
                let tree = &tree;
                scope.spawn(move || {
                    for _ in 0..50_000 {
                        tree.close(mine, || false);
                        tree.open(mine);
                        let weight = tree.weights[mine];
                        assert_eq!(tree.next(mine, weight), Some(mine));
                        assert!(tree.most() >= weight);
                    }
                });
            }
        });
        let inner = 1..tree.leaves;
        let exact =
            |node: usize| tree.weight(node) == tree.weight(2 * node).max(tree.weight(2 * node + 1));
        assert!(inner.clone().all(exact), "nothing is left behind");
    }
}
