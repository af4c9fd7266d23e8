//! The server of a flow that nobody remembers: a pure function of its client's address and port.
//!
//! No scheduler: it heeds neither connections nor thresholds, so that all packets of a flow meet the same server for as
//! long as the servers and their weights stay. When one goes, its flows go elsewhere and nearly all others stay: the
//! table is Maglev's (specification §6.10). The hash is keyed, so that nobody outside can aim at a server.

use std::sync::Arc;

use super::mh;
use crate::net::{Family, FlowKey, HashKey};
use crate::table::Dest;

/// Slots of the table. The same whatever the number of servers, so that adding one moves few flows.
const SLOTS: u32 = 65_537;

/// Which server takes the flows of a service that are not remembered.
#[derive(Debug)]
pub struct Spread {
    /// Indices into the list that it was built from.
    table: Box<[u16]>,
    key: HashKey,
}

impl Spread {
    /// A table of the servers in `dests` that serve and have a weight; `None` when there is none. Takes 128 KiB, and
    /// time: not for workers. Nodes with the same `seed` and servers choose alike.
    #[must_use]
    pub fn build(dests: &[Arc<Dest>], seed: u64) -> Option<Self> {
        let able: Vec<u16> = (0..)
            .zip(dests)
            .filter(|(_, dest)| dest.serving() && dest.weight > 0)
            .map(|(index, _)| index)
            .collect();
        if able.is_empty() {
            return None;
        }
        let servers: Vec<_> = able
            .iter()
            .map(|index| Arc::clone(&dests[usize::from(*index)]))
            .collect();
        let slots = mh::populate(&servers, SLOTS);
        Some(Self {
            table: slots.iter().map(|slot| able[usize::from(*slot)]).collect(),
            key: HashKey::from_seed(seed ^ 0x7370_7265_6164),
        })
    }

    /// The server of a client's flow, as an index into the list that the table was built from.
    #[inline]
    #[must_use]
    pub fn server<F: Family>(&self, client: F::Addr, port: u16, proto: u8) -> usize {
        let flow = FlowKey::<F> {
            src: client,
            dst: F::Addr::default(),
            src_port: port,
            dst_port: 0,
            proto,
        };
        let slot = ((F::hash(&flow, &self.key) >> 32) * self.table.len() as u64) >> 32;
        usize::from(self.table[usize::try_from(slot).unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::testkit::server;
    use super::*;
    use crate::net::V4;

    fn servers(weights: &[u32]) -> Vec<Arc<Dest>> {
        (0..)
            .zip(weights)
            .map(|(id, weight)| Arc::new(server(id, *weight)))
            .collect()
    }

    /// The servers of 10,000 clients.
    fn choices(spread: &Spread) -> Vec<usize> {
        (0..10_000u16)
            .map(|n| {
                spread.server::<V4>(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8).into(), n, 6)
            })
            .collect()
    }

    #[test]
    fn flows_are_spread_by_weight() {
        let spread = Spread::build(&servers(&[1, 2, 0, 1]), 1).expect("servers");
        let mut shares = [0; 4];
        choices(&spread).iter().for_each(|c| shares[*c] += 1);
        assert_eq!(shares[2], 0, "no weight, no flow");
        for (share, quarters) in shares.iter().zip([1, 2, 0, 1]) {
            let expected: i32 = quarters * 2500;
            assert!((share - expected).abs() < 250, "{shares:?}");
        }
    }

    #[test]
    fn the_flows_of_a_server_that_goes_are_nearly_the_only_ones_that_move() {
        let before = choices(&Spread::build(&servers(&[1; 10]), 1).expect("servers"));
        let mut weights = [1; 10];
        weights[3] = 0;
        let after = choices(&Spread::build(&servers(&weights), 1).expect("servers"));
        let moved = before.iter().zip(&after);
        let moved = moved.filter(|(a, b)| **a != 3 && a != b).count();
        assert!(moved < 500, "{moved} of 10,000 moved");
        assert!(after.iter().all(|c| *c != 3));
    }

    #[test]
    fn connections_do_not_change_a_choice() {
        let dests = servers(&[1, 1]);
        let spread = Spread::build(&dests, 1).expect("servers");
        let before = choices(&spread);
        for _ in 0..100 {
            dests[0].bind_unchecked();
        }
        assert_eq!(choices(&spread), before);
    }

    #[test]
    fn without_a_server_there_is_no_table() {
        assert!(Spread::build(&servers(&[0, 0]), 1).is_none());
        assert!(Spread::build(&[], 1).is_none());
    }
}
