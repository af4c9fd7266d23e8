//! `sh`, source hashing (specification §6.9).
//!
//! With `kernel_tables` the table is the kernel's: 256 buckets, as many for each server as its weight, in list order
//! until the table is full, one for a server of weight 0. That starves servers when weights are large and leaves the
//! clients of a quiesced server without one. By default the shares are in proportion instead: buckets by largest
//! remainder, at least one for each weight above 0 and none for weight 0, dealt out in turns as the kernel deals them,
//! in a table that grows with the sum of the weights in lowest terms. For up to 16 servers of equal weight the two
//! tables are the same. Hash, lookup and fallback are the kernel's in both.

use std::sync::Arc;

use super::hash::{NONE, gcd, multiplicative};
use super::{Build, Flags, MAX_SERVERS, Scheduler, Selection};
use crate::table::Dest;

pub(super) const FLAGS: &[&str] = &["fallback", "port", "kernel_tables"];

/// What to do about more servers than [`most`].
pub(super) const REMEDY: &str = "without the flag `kernel_tables` the table grows with the servers";

/// Buckets of the kernel's table.
const KERNEL_BUCKETS: usize = 256;
/// Buckets for one unit of weight that a proportional table aims at, so that rounding is at most about 3 %.
const BUCKETS_PER_UNIT: u64 = 16;
/// Most buckets of a proportional table because of weights; more servers than that can have one each still grow it.
const WEIGHTED_BUCKETS_MAX: u64 = 16_384;

#[derive(Debug)]
struct SourceHashing {
    /// A power of two of server indices.
    buckets: Box<[u16]>,
    flags: Flags,
}

pub(super) fn most(flags: Flags) -> usize {
    if flags.kernel_tables {
        KERNEL_BUCKETS
    } else {
        MAX_SERVERS
    }
}

pub(super) fn build(build: &Build<'_>, flags: Flags) -> Box<dyn Scheduler> {
    let weights: Vec<u32> = build.dests.iter().map(|dest| dest.weight).collect();
    let buckets = if flags.kernel_tables {
        kernel(&weights)
    } else {
        proportional(&weights)
    };
    Box::new(SourceHashing {
        buckets: buckets.into(),
        flags,
    })
}

/// The kernel's table.
fn kernel(weights: &[u32]) -> Vec<u16> {
    let servers = (0..NONE).zip(weights).cycle();
    let runs =
        servers.flat_map(|(server, &weight)| std::iter::repeat_n(server, weight.max(1) as usize));
    // An empty list gives no runs at all, hence the padding.
    runs.chain(std::iter::repeat(NONE))
        .take(KERNEL_BUCKETS)
        .collect()
}

/// A table with shares in proportion to the weights.
fn proportional(weights: &[u32]) -> Vec<u16> {
    let unit = weights.iter().fold(0, |unit, &weight| gcd(unit, weight));
    if unit == 0 {
        return vec![NONE; KERNEL_BUCKETS];
    }
    let size = proportional_size(weights, unit);
    let mut left = quotas(weights, size);
    let mut buckets = Vec::with_capacity(size);
    while buckets.len() < size {
        for ((server, &weight), left) in (0..NONE).zip(weights).zip(&mut left) {
            let turn = ((weight / unit) as usize).min(*left);
            *left -= turn;
            buckets.extend(std::iter::repeat_n(server, turn));
        }
    }
    buckets
}

#[allow(clippy::cast_possible_truncation)]
fn proportional_size(weights: &[u32], unit: u32) -> usize {
    let units: u64 = weights.iter().map(|weight| u64::from(weight / unit)).sum();
    let most = WEIGHTED_BUCKETS_MAX.max(weights.len() as u64 * BUCKETS_PER_UNIT);
    let wanted = (units * BUCKETS_PER_UNIT).min(most).next_power_of_two();
    (wanted as usize).max(KERNEL_BUCKETS)
}

/// Buckets of each server, `size` together: in proportion, the remainders to the largest, at least one.
#[allow(clippy::cast_possible_truncation)]
fn quotas(weights: &[u32], size: usize) -> Vec<usize> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let share = |weight: u32| u128::from(weight) * size as u128;
    let floor = |&weight: &u32| ((share(weight) / sum) as usize).max(usize::from(weight > 0));
    let mut quotas: Vec<usize> = weights.iter().map(floor).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(share(weights[i]) % sum));
    let given: usize = quotas.iter().sum();
    for &i in order.iter().cycle().take(size.saturating_sub(given)) {
        quotas[i] += 1;
    }
    // What was given to servers that are due less than one bucket comes from those that have most.
    order.sort_by_key(|&i| std::cmp::Reverse(quotas[i]));
    let mut excess = given.saturating_sub(size);
    for &i in order.iter().cycle() {
        if excess == 0 {
            break;
        }
        if quotas[i] > 1 {
            quotas[i] -= 1;
            excess -= 1;
        }
    }
    quotas
}

impl SourceHashing {
    /// The bucket at `offset` (specification §6.9).
    #[inline]
    fn bucket(&self, client: u32, offset: u32) -> usize {
        let hash = multiplicative(client, self.buckets.len().trailing_zeros());
        (offset.wrapping_add(hash)) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn available(&self, bucket: usize, dests: &[Arc<Dest>]) -> Option<usize> {
        let index = usize::from(self.buckets[bucket]);
        dests
            .get(index)
            .is_some_and(|dest| dest.eligible())
            .then_some(index)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn fall_back(&self, client: u32, dests: &[Arc<Dest>]) -> Option<usize> {
        // Without this the search would visit every bucket when no server is left.
        dests.iter().find(|dest| dest.eligible())?;
        let first = self.bucket(client, 0) as u32;
        let size = self.buckets.len() as u32;
        (0..size)
            .map(|offset| self.bucket(client, offset.wrapping_add(first) % size))
            .take_while(|&bucket| self.buckets[bucket] != NONE)
            .find_map(|bucket| self.available(bucket, dests))
    }
}

impl Scheduler for SourceHashing {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let client = selection.hashed_client(self.flags.port);
        self.available(self.bucket(client, 0), dests).or_else(|| {
            if self.flags.fallback {
                self.fall_back(client, dests)
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, list, overload};
    use super::*;

    fn shares(buckets: &[u16], servers: u16) -> Vec<usize> {
        (0..servers)
            .map(|s| buckets.iter().filter(|&&b| b == s).count())
            .collect()
    }

    fn from(client: u32, client_port: u16) -> Selection<'static> {
        Selection {
            client,
            client_port,
            ..Selection::default()
        }
    }

    #[test]
    fn the_kernel_table_is_filled_by_weights_in_list_order_until_it_is_full() {
        assert_eq!(shares(&kernel(&[1, 1, 1]), 3), [86, 85, 85]);
        assert_eq!(shares(&kernel(&[100, 1000, 10_000]), 3), [100, 156, 0]);
        assert_eq!(kernel(&[2, 0, 1])[..8], [0, 0, 1, 2, 0, 0, 1, 2]);
        assert_eq!(kernel(&[]), [NONE; 256]);
    }

    #[test]
    fn equal_weights_give_the_kernel_table() {
        for n in 1..=16 {
            assert_eq!(
                proportional(&vec![7; n]),
                kernel(&vec![1; n]),
                "{n} servers"
            );
        }
    }

    #[test]
    fn large_weights_get_their_shares_and_weight_0_gets_none() {
        let shares = shares(&proportional(&[100, 1000, 0, 10_000, 65_535]), 5);
        assert_eq!(shares[2], 0);
        for (share, weight) in shares.iter().zip([100.0, 1000.0, 0.0, 10_000.0, 65_535.0]) {
            let due = weight / 76_635.0 * 16_384.0;
            assert!((*share as f64 - due).abs() <= 1.0, "{shares:?}");
        }
    }

    #[test]
    fn a_bucket_is_chosen_by_client_address_and_by_port_when_asked() {
        // Specification §6.10: H(10.0.0.1, 8) is 39, with port 5060 it is 231.
        let table = kernel(&[1; 3]);
        let choice =
            |flags| Service::new("sh", flags, list(&[1; 3])).select(&from(0x0a00_0001, 5060));
        assert_eq!(choice(&["kernel_tables"]), Some(usize::from(table[39])));
        assert_eq!(
            choice(&["kernel_tables", "port"]),
            Some(usize::from(table[231]))
        );
        assert_eq!(choice(&[]), Some(usize::from(table[39])));
    }

    #[test]
    fn only_the_kernel_table_refuses_clients_of_a_quiesced_server() {
        let refused = |flags: &[&str]| {
            let service = Service::new("sh", flags, list(&[0, 1]));
            (0..1000u32)
                .filter(|&n| service.select(&from(n << 8, 0)).is_none())
                .count()
        };
        assert!(refused(&["kernel_tables"]) > 400);
        assert_eq!(refused(&["kernel_tables", "fallback"]), 0);
        assert_eq!(refused(&[]), 0);
    }

    #[test]
    fn an_overloaded_server_refuses_its_clients_unless_there_is_fallback() {
        let refused = |flags: &[&str]| {
            let service = Service::new("sh", flags, list(&[1, 1]));
            carry(&service.dests[0], 0, 1);
            overload(&service.dests[0], true);
            (0..1000u32)
                .filter(|&n| service.select(&from(n << 8, 0)).is_none())
                .count()
        };
        assert!(refused(&[]) > 400);
        assert_eq!(refused(&["sh-fallback"]), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn the_kernel_lookup_is_that_of_the_specification(
            weights in prop::collection::vec(0..90u32, 0..8), client: u32, port: u16
        ) {
            let rounds = weights.iter().enumerate().cycle().take(256 * weights.len());
            let turns = rounds.flat_map(|(i, &w)| vec![i; w.max(1) as usize]);
            let buckets: Vec<usize> = turns.take(256).collect();
            let h = |offset: usize| {
                let v = (u64::from(client) + u64::from(port)) % (1 << 32);
                (offset + ((v * 0x61c8_8647 % (1 << 32)) >> 24) as usize) % 256
            };
            let up = |bucket: usize| buckets.get(bucket).copied().filter(|&i| weights[i] > 0);
            let h0 = h(0);
            let expected = up(h0).or_else(|| {
                (0..256).map(|offset| h((offset + h0) % 256)).find_map(up)
            });
            let flags = ["kernel_tables", "sh-port", "sh-fallback"];
            let service = Service::new("sh", &flags, list(&weights));
            prop_assert_eq!(service.select(&from(client, port)), expected);
        }

        #[test]
        fn a_table_is_full_and_no_weight_goes_without(
            weights in prop::collection::vec(prop_oneof![0..4u32, 0..70_000u32], 1..40)
        ) {
            let buckets = proportional(&weights);
            prop_assert!(buckets.len().is_power_of_two() && buckets.len() >= 256);
            let shares = shares(&buckets, u16::try_from(weights.len()).expect("few"));
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert_eq!(*share > 0, *weight > 0);
            }
            let sum: usize = shares.iter().sum();
            prop_assert!(sum == buckets.len() || weights.iter().all(|&w| w == 0));
        }
    }
}
