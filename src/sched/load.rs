//! How loaded a real server is, and the least loaded of many.

use std::sync::Arc;

use crate::table::{Counts, Dest};

/// A load to be compared in proportion to a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// What the server carries.
    pub cost: u64,
    /// What it is able to carry.
    pub weight: u32,
}

impl Load {
    /// Whether `self` carries more for its weight than `other`; exact, for the products are 128 bits wide.
    #[inline]
    pub(super) fn exceeds(self, other: Self) -> bool {
        u128::from(self.cost) * u128::from(other.weight)
            > u128::from(other.cost) * u128::from(self.weight)
    }
}

/// Overhead of a server: active connections count 256 times more (specification §6).
#[inline]
pub(super) fn overhead(counts: Counts) -> u64 {
    u64::from(counts.active) * 256 + u64::from(counts.total)
}

/// The load of `wlc` (specification §6.4).
#[inline]
pub(super) fn weighted(dest: &Dest, counts: Counts) -> Load {
    Load {
        cost: overhead(counts),
        weight: dest.weight,
    }
}

/// The expected delay of `sed` (specification §6.5).
#[inline]
pub(super) fn expected_delay(dest: &Dest, counts: Counts) -> Load {
    Load {
        cost: u64::from(counts.active) + 1,
        weight: dest.weight,
    }
}

/// The eligible server with the least load; the first of the list wins ties (specification §6.3–6.5).
#[inline]
pub(super) fn least(dests: &[Arc<Dest>], load: impl Fn(&Dest, Counts) -> Load) -> Option<usize> {
    least_of(dests, 0..dests.len(), load)
}

/// As [`least`], among the servers at `indices`, in their order.
#[inline]
pub(super) fn least_of(
    dests: &[Arc<Dest>],
    indices: impl Iterator<Item = usize>,
    load: impl Fn(&Dest, Counts) -> Load,
) -> Option<usize> {
    let mut best: Option<(usize, Load)> = None;
    for index in indices {
        let dest = &dests[index];
        let Some(counts) = dest.eligible_counts() else {
            continue;
        };
        let load = load(dest, counts);
        if best.is_none_or(|(_, least)| least.exceeds(load)) {
            best = Some((index, load));
        }
    }
    best.map(|(index, _)| index)
}
