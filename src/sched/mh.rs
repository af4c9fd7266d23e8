//! `mh`, Maglev hashing (specification §6.10).
//!
//! Bit-compatible with the kernel's for the same table size; the sizes are those that a kernel can be built with, and
//! 65537, Maglev's own.

use std::sync::Arc;

use super::hash::{HsipHash, NONE, fold, gcd};
use super::{Build, Flags, Scheduler, Selection};
use crate::table::Dest;

pub(super) const FLAGS: &[&str] = &["fallback", "port", "table=SLOTS"];

/// What to do about more servers than [`most`].
pub(super) const REMEDY: &str = "give it a larger table by a flag, such as `table=65537`, on every director that is to choose alike";

/// Table sizes, all prime.
pub(super) const TABLE_SIZES: &[u32] = &[
    251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 65_537, 131_071,
];

/// Slots of the table without a `table=` flag.
const DEFAULT_TABLE: u32 = 4093;

/// Reads the value of a `table=` flag.
pub(super) fn table_size(value: &str) -> Option<u32> {
    value.parse().ok().filter(|size| TABLE_SIZES.contains(size))
}

fn slots(flags: Flags) -> u32 {
    if flags.table == 0 {
        DEFAULT_TABLE
    } else {
        flags.table
    }
}

pub(super) fn most(flags: Flags) -> usize {
    (slots(flags) as usize).min(super::MAX_SERVERS)
}

#[derive(Debug)]
struct Maglev {
    /// Server indices.
    table: Box<[u16]>,
    hash: HsipHash,
    flags: Flags,
}

pub(super) fn build(build: &Build<'_>, flags: Flags) -> Box<dyn Scheduler> {
    let table = populate(build.dests, slots(flags)).into();
    Box::new(Maglev {
        table,
        hash: HsipHash::first(),
        flags,
    })
}

/// A server's walk through the table.
struct Walk {
    server: u16,
    /// The slot that is looked at next.
    slot: u32,
    skip: u32,
    /// Slots that it takes in each round.
    turns: u32,
}

/// Fills a table of `size` slots; all empty when no server ever had a weight.
pub(super) fn populate(dests: &[Arc<Dest>], size: u32) -> Vec<u16> {
    let mut table = vec![NONE; size as usize];
    let mut walks = walks(dests, size);
    if walks.is_empty() {
        return table;
    }
    let mut left = size;
    while left > 0 {
        for walk in &mut walks {
            for _ in 0..walk.turns.min(left) {
                // Ends: the stride is prime to the size, so the walk comes to every slot, and one is empty.
                while table[walk.slot as usize] != NONE {
                    walk.slot = (walk.slot + walk.skip) % size;
                }
                table[walk.slot as usize] = walk.server;
                left -= 1;
            }
        }
    }
    table
}

/// The walks of the servers that take slots. Weights count as they last were above 0: a quiesced server keeps its
/// slots.
fn walks(dests: &[Arc<Dest>], size: u32) -> Vec<Walk> {
    let unit = dests
        .iter()
        .fold(0, |unit, dest| gcd(unit, dest.last_weight));
    let most = dests.iter().map(|dest| dest.last_weight).max().unwrap_or(0);
    let bits_needed = u32::BITS - most.checked_div(unit).unwrap_or(0).leading_zeros();
    let shift = bits_needed.saturating_sub(weight_bits(size));
    let (first, second) = (HsipHash::first(), HsipHash::second());
    let weighted = (0..NONE)
        .zip(dests)
        .filter(|(_, dest)| dest.last_weight > 0);
    let walk = |(server, dest): (u16, &Arc<Dest>)| {
        let v = fold(dest).wrapping_add(u32::from(dest.port));
        Walk {
            server,
            slot: first.of(v) % size,
            skip: second.of(v) % (size - 1) + 1,
            turns: ((dest.last_weight / unit) >> shift).max(1),
        }
    };
    weighted.map(walk).collect()
}

/// Bits of a weight that count: half the build index of the table, which is the number of bits of its size.
fn weight_bits(size: u32) -> u32 {
    // 65537 has a bit more than its neighbour 65521, whose place it takes.
    (u32::BITS - (size - 2).leading_zeros()) / 2
}

impl Maglev {
    #[inline]
    fn available(&self, hash: u32, dests: &[Arc<Dest>]) -> Option<usize> {
        let index = usize::from(self.table[hash as usize % self.table.len()]);
        dests
            .get(index)
            .is_some_and(|dest| dest.eligible())
            .then_some(index)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn fall_back(&self, client: u32, dests: &[Arc<Dest>]) -> Option<usize> {
        // Without this the search would hash once for every slot when no server is left.
        dests.iter().find(|dest| dest.eligible())?;
        let size = self.table.len() as u32;
        let first = self.hash.of(client) % size;
        (0..size).find_map(|offset| {
            let further = offset.wrapping_add(first) % size;
            self.available(self.hash.of(client.wrapping_add(further)), dests)
        })
    }
}

impl Scheduler for Maglev {
    fn select(&self, dests: &[Arc<Dest>], selection: &Selection<'_>) -> Option<usize> {
        let client = selection.hashed_client(self.flags.port);
        self.available(self.hash.of(client), dests).or_else(|| {
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
    use std::net::IpAddr;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::testkit::{Service, carry, list, overload, server};
    use super::*;
    use crate::net::{Family, V4, V6};

    fn shares(table: &[u16], servers: usize) -> Vec<u64> {
        let mut shares = vec![0; servers];
        table
            .iter()
            .for_each(|&server| shares[usize::from(server)] += 1);
        shares
    }

    fn at(addr: IpAddr, port: u16, weight: u32, id: u32) -> Arc<Dest> {
        Arc::new(Dest {
            addr,
            port,
            ..server(id, weight)
        })
    }

    /// The servers 192.168.0.n:80 of the specification, by their last octets.
    fn specified(servers: &[(u8, u32)]) -> Vec<Arc<Dest>> {
        let one = |&(n, weight): &(u8, u32)| at([192, 168, 0, n].into(), 80, weight, n.into());
        servers.iter().map(one).collect()
    }

    /// Specification §6.10, the table of vectors.
    #[test]
    fn first_slots_and_strides_meet_the_vectors() {
        let walks = walks(&specified(&[(1, 1), (2, 1), (3, 1)]), 4093);
        let got: Vec<_> = walks.iter().map(|walk| (walk.slot, walk.skip)).collect();
        assert_eq!(got, [(1355, 1615), (1813, 3870), (2543, 201)]);
    }

    /// Specification §6.10, the table of vectors.
    #[test]
    fn tables_meet_the_vectors() {
        let table = populate(&specified(&[(3, 1), (2, 1), (1, 1)]), 4093);
        assert_eq!(shares(&table, 3), [1365, 1364, 1364]);
        let octets: Vec<u16> = table[..12].iter().map(|server| 3 - server).collect();
        assert_eq!(octets, [1, 3, 2, 1, 3, 3, 2, 3, 3, 1, 3, 2]);
        let table = populate(&specified(&[(2, 3), (1, 1)]), 4093);
        assert_eq!(shares(&table, 2), [3070, 1023]);
    }

    #[test]
    fn large_weights_count_by_their_highest_six_bits() {
        let addrs = (1..=4u8).zip([100, 1000, 10_000, 65_535]);
        let dests: Vec<_> = addrs
            .map(|(n, weight)| at([10, 3, 0, n].into(), 80, weight, n.into()))
            .collect();
        assert_eq!(shares(&populate(&dests, 4093), 4), [69, 69, 483, 3472]);
    }

    /// The cases of the shared vector file; where it is absent the vectors above stand alone.
    #[test]
    fn tables_and_lookups_meet_the_shared_vectors() {
        let root = std::env::var("POLDER_SHARED")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared").to_owned());
        let path = format!("{root}/data/vectors/kernel_mh_sh.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!(
                "SKIPPED: {path} can't be read, so the shared vectors of mh and sh were not checked"
            );
            return;
        };
        let file: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
        let cases = file["cases"].as_array().expect("has cases");
        cases.iter().for_each(check_case);
        assert_eq!(cases.len(), 3);
    }

    fn check_case(case: &serde_json::Value) {
        let number =
            |v: &serde_json::Value| u32::try_from(v.as_u64().expect("a number")).expect("32 bits");
        let addr = |v: &serde_json::Value| {
            v.as_str()
                .expect("text")
                .parse::<IpAddr>()
                .expect("an address")
        };
        let servers = case["dests_in_list_order"].as_array().expect("a list");
        let dests: Vec<Arc<Dest>> = (0..)
            .zip(servers)
            .map(|(id, s)| {
                at(
                    addr(&s["addr"]),
                    number(&s["port"]) as u16,
                    number(&s["weight"]),
                    id,
                )
            })
            .collect();
        let table = populate(&dests, 4093);
        let shared: Vec<u64> = serde_json::from_value(case["mh_share"].clone()).expect("numbers");
        let first: Vec<u16> = serde_json::from_value(case["mh_first32"].clone()).expect("numbers");
        assert_eq!(
            (shares(&table, dests.len()), &table[..32]),
            (shared, &first[..])
        );
        for lookup in case["lookups"].as_array().expect("a list") {
            let client = match addr(&lookup["src"]) {
                IpAddr::V4(a) => V4::fold32(a.into()),
                IpAddr::V6(a) => V6::fold32(a.into()),
            };
            let client_port = number(&lookup["sport"]) as u16;
            let selection = Selection {
                client,
                client_port,
                ..Selection::default()
            };
            let schedulers: [(_, _, &[&str]); 4] = [
                ("mh", "mh", &[]),
                ("mh_port", "mh", &["port"]),
                ("sh", "sh", &["kernel_tables"]),
                ("sh_port", "sh", &["kernel_tables", "port"]),
            ];
            for (key, name, flags) in schedulers {
                let chosen = Service::new(name, flags, dests.clone()).select(&selection);
                assert_eq!(
                    chosen,
                    Some(number(&lookup[key]) as usize),
                    "{key} of {lookup}"
                );
            }
        }
    }

    #[test]
    fn a_quiesced_server_keeps_its_slots_and_refuses_unless_there_is_fallback() {
        let choices = |flags: &[&str], weight| {
            let mut dests = list(&[1, 1]);
            dests[0] = Arc::new(Dest {
                weight,
                ..server(0, 1)
            });
            let service = Service::new("mh", flags, dests);
            let from = |client| Selection {
                client,
                ..Selection::default()
            };
            (0..1000)
                .map(|client| service.select(&from(client)))
                .collect::<Vec<_>>()
        };
        let (before, after) = (choices(&[], 1), choices(&[], 0));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(*after, before.filter(|&index| index == 1));
        }
        assert!(
            choices(&["mh-fallback"], 0)
                .iter()
                .all(|&choice| choice == Some(1))
        );
    }

    #[test]
    fn an_overloaded_server_refuses_its_clients() {
        let service = Service::new("mh", &[], list(&[1]));
        carry(&service.dests[0], 0, 1);
        overload(&service.dests[0], true);
        assert_eq!(service.next(), None);
    }

    #[test]
    fn the_weight_bits_are_half_the_build_index() {
        let bits: Vec<u32> = TABLE_SIZES.iter().map(|&size| weight_bits(size)).collect();
        assert_eq!(bits, [4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn a_thousand_servers_fill_the_largest_tables_soon() {
        let dests = list(&[1; 1000]);
        for size in [65_521, 65_537, 131_071] {
            let start = Instant::now();
            let shares = shares(&populate(&dests, size), 1000);
            let took = start.elapsed();
            assert!(
                shares
                    .iter()
                    .all(|s| s.abs_diff(u64::from(size) / 1000) <= 1)
            );
            // The bound of 50 ms is perf/sched.rs's to show; this one only catches a wrong algorithm.
            assert!(took.as_millis() < 1000, "{size}: {took:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn tables_are_those_of_the_specification(
            weights in prop::collection::vec(prop_oneof![0..4u32, 0..70_000u32], 0..7),
            size in prop::sample::select(&TABLE_SIZES[..3]),
        ) {
            let dests = list(&weights);
            prop_assert_eq!(populate(&dests, size), naive(&dests, size));
        }

        #[test]
        fn fallback_looks_where_the_specification_says(
            weights in prop::collection::vec(0..2u32, 1..9), client: u32, client_port: u16
        ) {
            let dests: Vec<Arc<Dest>> = (0..).zip(&weights)
                .map(|(id, &weight)| Arc::new(Dest { weight, ..server(id, 1) })).collect();
            let table = populate(&dests, 251);
            let hash = |r: u64| {
                let v = (r + u64::from(client) + u64::from(client_port)) % (1 << 32);
                u64::from(HsipHash::first().of(v as u32)) % 251
            };
            let owner = |slot: u64| usize::from(table[slot as usize]);
            let up = |slot: u64| Some(owner(slot)).filter(|&i| weights[i] > 0);
            let h0 = hash(0);
            let expected = up(h0).or_else(|| (0..251).find_map(|o| up(hash((o + h0) % 251))));
            let service = Service::new("mh", &["table=251", "port", "fallback"], dests);
            let selection = Selection { client, client_port, ..Selection::default() };
            prop_assert_eq!(service.select(&selection), expected);
        }
    }

    /// Specification §6.10, each server's slots listed in full.
    fn naive(dests: &[Arc<Dest>], size: u32) -> Vec<u16> {
        let weights: Vec<u32> = dests
            .iter()
            .map(|d| d.last_weight)
            .filter(|&w| w > 0)
            .collect();
        let mut table = vec![NONE; size as usize];
        let Some(&most) = weights.iter().max() else {
            return table;
        };
        let g = (1..=most)
            .rev()
            .find(|d| weights.iter().all(|w| w % d == 0))
            .expect("1 divides");
        let index = TABLE_SIZES.iter().position(|&s| s == size).expect("exists") as u32 + 8;
        let mut shift = 0;
        while (most / g) >> shift >= 1 << (index / 2) {
            shift += 1;
        }
        let mut lists: Vec<Vec<u32>> = dests
            .iter()
            .map(|dest| {
                let v = fold(dest) + u32::from(dest.port);
                let (off, skip) = (
                    HsipHash::first().of(v) % size,
                    HsipHash::second().of(v) % (size - 1) + 1,
                );
                (0..size).rev().map(|n| (off + n * skip) % size).collect()
            })
            .collect();
        let mut left = size;
        while left > 0 {
            for (server, dest) in dests.iter().enumerate().filter(|(_, d)| d.last_weight > 0) {
                for _ in 0..(((dest.last_weight / g) >> shift).max(1)).min(left) {
                    let free = std::iter::from_fn(|| lists[server].pop())
                        .find(|&slot| table[slot as usize] == NONE)
                        .expect("one is left");
                    table[free as usize] = server as u16;
                    left -= 1;
                }
            }
        }
        table
    }
}
