//! The connection table against a plain list, operation by operation, in both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use crate::net::packet::proto;
use crate::net::{Family, FlowKey, HashKey, Tick, V4, V6};
use crate::table::conn::MAX_TIMEOUT;
use crate::table::state::Worth;
use crate::table::{Conn, ConnIdx, ConnTable, Direction, Ends, Expiry, Hit, InsertError, Method};

/// Addresses and ports of all roles come from one small set, so that keys collide in every way there is.
const ADDRESSES: u8 = 3;
const PORTS: u16 = 2;
const PROTOCOLS: [u8; 2] = [proto::TCP, proto::UDP];

#[derive(Clone, Debug)]
struct Spec {
    ends: [u8; 3],
    ports: [u16; 3],
    protocol: usize,
    method: Method,
    state: u8,
    in_pkts: u32,
    timeout: u32,
}

#[derive(Clone, Debug)]
enum Op {
    Insert {
        spec: Spec,
        evict: bool,
    },
    Remove(prop::sample::Index),
    Touch(prop::sample::Index),
    SetTimeout(prop::sample::Index, u32),
    Change(prop::sample::Index, u8, u32),
    Expire {
        ticks: u32,
        budget: usize,
        rearm: Option<u32>,
    },
}

fn address<F: Family>(n: u8) -> F::Addr {
    let v4 = IpAddr::from([10, 0, 0, n]);
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, u16::from(n) << 8, 0, 0, 1]);
    F::from_ip(v4).or_else(|| F::from_ip(v6)).unwrap()
}

fn conn<F: Family>(spec: &Spec) -> Conn<F> {
    let [caddr, vaddr, daddr] = spec.ends.map(address::<F>);
    let [cport, vport, dport] = spec.ports;
    let proto = PROTOCOLS[spec.protocol];
    let ends = Ends {
        proto,
        caddr,
        cport,
        vaddr,
        vport,
        daddr,
        dport,
    };
    let mut conn = Conn::new(&ends, spec.method).with_timeout(spec.timeout);
    conn.state = spec.state;
    conn.in_pkts = spec.in_pkts;
    conn
}

/// Every key that there can be.
fn universe<F: Family>() -> Vec<FlowKey<F>> {
    let mut keys = Vec::new();
    for (src, dst) in (0..ADDRESSES).flat_map(|s| (0..ADDRESSES).map(move |d| (s, d))) {
        for (src_port, dst_port) in (0..PORTS).flat_map(|s| (0..PORTS).map(move |d| (s, d))) {
            for proto in PROTOCOLS {
                let (src, dst) = (address::<F>(src), address::<F>(dst));
                keys.push(FlowKey {
                    src,
                    dst,
                    src_port,
                    dst_port,
                    proto,
                });
            }
        }
    }
    keys
}

/// The table and what it should hold.
struct Pair<F: Family> {
    table: ConnTable<F>,
    model: BTreeMap<u32, Conn<F>>,
    now: Tick,
    universe: Vec<FlowKey<F>>,
}

impl<F: Family> Pair<F> {
    fn new(capacity: usize, key: HashKey, start: u32) -> Self {
        Self {
            table: ConnTable::new(capacity, key).unwrap(),
            model: BTreeMap::new(),
            now: Tick(start),
            universe: universe(),
        }
    }

    fn find(&self, key: &FlowKey<F>) -> Option<Hit> {
        let direction = |conn: &Conn<F>| match () {
            () if conn.request_key() == *key => Some(Direction::FromClient),
            () if conn.reply_key().as_ref() == Some(key) => Some(Direction::FromServer),
            () => None,
        };
        let mut hits = self.model.iter().filter_map(|(&index, conn)| {
            Some(Hit {
                index: ConnIdx(index),
                direction: direction(conn)?,
            })
        });
        let hit = hits.next();
        assert_eq!(hits.next(), None, "two connections under {key:?}");
        hit
    }

    fn nth(&self, which: prop::sample::Index) -> Option<ConnIdx> {
        let n = self.model.len();
        (n > 0).then(|| ConnIdx(*self.model.keys().nth(which.index(n)).unwrap()))
    }

    fn worth(conn: &Conn<F>) -> Worth {
        Worth::of(conn.proto(), conn.state, conn.flags(), conn.in_pkts)
    }

    /// Why an insertion must fail, as far as keys go.
    fn obstacle(&self, conn: &Conn<F>) -> Option<InsertError> {
        match self.find(&conn.request_key()) {
            Some(Hit {
                index,
                direction: Direction::FromClient,
            }) => {
                return Some(InsertError::Exists(index));
            }
            Some(Hit { index, .. }) => return Some(InsertError::Collision(index)),
            None => {}
        }
        let reply = conn.reply_key()?;
        if reply == conn.request_key() {
            return Some(InsertError::Loop);
        }
        self.find(&reply)
            .map(|hit| InsertError::Collision(hit.index))
    }

    fn insert(&mut self, spec: &Spec, evict: bool) {
        let conn = conn::<F>(spec);
        let full = self.model.len() == self.table.capacity();
        let least = self.model.values().map(Self::worth).min();
        let may_evict = evict && least.is_some_and(|worth| worth < Worth::InUse);
        let obstacle = self
            .obstacle(&conn)
            .or_else(|| (full && !may_evict).then_some(InsertError::Full));
        let before = self.table.changes();
        let got = if evict {
            self.table
                .insert_with_evict(&conn, self.now)
                .map(|done| (done.index, done.evicted))
        } else {
            self.table
                .insert(&conn, self.now)
                .map(|index| (index, None))
        };
        let (index, evicted) = match (got, obstacle) {
            (Err(error), Some(expected)) => {
                assert_eq!(error, expected);
                assert_eq!(self.table.changes(), before);
                return;
            }
            (Ok(done), None) => done,
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        };
        assert_eq!(evicted.is_some(), full);
        if let Some(evicted) = evicted {
            assert_eq!(Some(Self::worth(&evicted)), least);
            let (&gone, _) = self
                .model
                .iter()
                .find(|(_, c)| c.request_key() == evicted.request_key())
                .unwrap();
            self.model.remove(&gone);
        }
        let stored = *self.table.get(index);
        assert_eq!(
            (stored.ends(), stored.timeout()),
            (conn.ends(), conn.timeout())
        );
        assert_eq!(stored.last_seen(), self.now);
        assert!(
            self.model.insert(index.0, stored).is_none(),
            "the entry was in use"
        );
    }

    fn remove(&mut self, index: ConnIdx) {
        let gone = self.table.remove(index);
        assert_eq!(gone.ends(), self.model.remove(&index.0).unwrap().ends());
    }

    fn expire(&mut self, ticks: u32, budget: usize, rearm: Option<u32>) {
        self.now = self.now.plus(ticks);
        let now = self.now;
        let mut told = Vec::new();
        let swept = self.table.expire(now, budget, |index, conn| {
            told.push((index, conn.deadline()));
            rearm.map_or(Expiry::Remove, Expiry::Rearm)
        });
        assert!(swept.examined <= budget);
        assert_eq!(swept.removed, if rearm.is_none() { told.len() } else { 0 });
        for (index, deadline) in told {
            assert_eq!(self.model[&index.0].deadline(), deadline);
            assert!(now.reached(deadline), "ended before its time");
            match rearm {
                None => drop(self.model.remove(&index.0)),
                Some(_) => drop(self.model.insert(index.0, *self.table.get(index))),
            }
        }
        if ticks > 0 && swept.examined < budget {
            assert!(
                !self.model.values().any(|conn| now.reached(conn.deadline())),
                "overdue"
            );
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert { spec, evict } => self.insert(&spec, evict),
            Op::Remove(which) => {
                if let Some(index) = self.nth(which) {
                    self.remove(index);
                }
            }
            Op::Touch(which) => {
                if let Some(index) = self.nth(which) {
                    self.table.touch(index, self.now);
                    self.model.get_mut(&index.0).unwrap().touch(self.now);
                }
            }
            Op::SetTimeout(which, ticks) => {
                if let Some(index) = self.nth(which) {
                    self.table.set_timeout(index, ticks, self.now);
                    self.model
                        .get_mut(&index.0)
                        .unwrap()
                        .set_timer(ticks, self.now);
                }
            }
            Op::Change(which, state, in_pkts) => {
                if let Some(index) = self.nth(which) {
                    for conn in [
                        self.table.get_mut(index),
                        self.model.get_mut(&index.0).unwrap(),
                    ] {
                        conn.state = state;
                        conn.in_pkts = in_pkts;
                    }
                }
            }
            Op::Expire {
                ticks,
                budget,
                rearm,
            } => {
                // What is longer overdue than half of the clock's range can't be told from the future.
                let budget = if ticks > 1 << 24 { usize::MAX } else { budget };
                self.expire(ticks, budget, rearm);
            }
        }
    }

    fn agree(&self) {
        assert_eq!(self.table.len(), self.model.len());
        let mut burst = vec![None; self.universe.len()];
        self.table.lookup_burst(&self.universe, &mut burst);
        for (key, staged) in self.universe.iter().zip(burst) {
            let expected = self.find(key);
            assert_eq!(self.table.lookup(key), expected, "{key:?}");
            assert_eq!(staged, expected, "{key:?} in a burst");
        }
        let mut listed = Vec::new();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            cursor = self.table.dump(at, 5, |index, conn| {
                assert_eq!(conn.deadline(), self.model[&index.0].deadline());
                listed.push(index.0);
            });
        }
        assert!(listed.iter().eq(self.model.keys()));
    }

    fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply(op);
            self.agree();
        }
        // In the end everything ends.
        while !self.model.is_empty() {
            self.expire(MAX_TIMEOUT + 1, usize::MAX, None);
        }
        self.agree();
    }
}

fn ticks() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0u32..5, 3 => 0u32..9_000, 1 => 0u32..1 << 24, 1 => 0..=MAX_TIMEOUT + 7]
}

fn spec() -> impl Strategy<Value = Spec> {
    let method = prop::sample::select(vec![Method::Masq, Method::Masq, Method::Direct]);
    (
        // The first address more often than the others.
        prop::array::uniform3((0..ADDRESSES + 2).prop_map(|n| n.saturating_sub(2))),
        prop::array::uniform3(0..PORTS),
        0..PROTOCOLS.len(),
        method,
        0u8..11,
        0u32..4,
        ticks(),
    )
        .prop_map(
            |(ends, ports, protocol, method, state, in_pkts, timeout)| Spec {
                ends,
                ports,
                protocol,
                method,
                state,
                in_pkts,
                timeout,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        8 => (spec(), any::<bool>()).prop_map(|(spec, evict)| Op::Insert { spec, evict }),
        1 => which().prop_map(Op::Remove),
        2 => which().prop_map(Op::Touch),
        2 => (which(), ticks()).prop_map(|(which, ticks)| Op::SetTimeout(which, ticks)),
        2 => (which(), 0u8..11, 0u32..4).prop_map(|(which, state, n)| Op::Change(which, state, n)),
        3 => (ticks(), 0usize..6, prop::option::weighted(0.2, 0u32..9_000))
            .prop_map(|(ticks, budget, rearm)| {
                let budget = if budget > 3 { usize::MAX } else { budget };
                Op::Expire { ticks, budget, rearm }
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_ipv4_table_does_what_a_list_does(
        capacity in 1usize..24,
        seed in any::<u64>(),
        start in prop_oneof![any::<u32>(), u32::MAX - 5_000..=u32::MAX],
        ops in prop::collection::vec(op(), 1..80),
    ) {
        Pair::<V4>::new(capacity, HashKey::from_seed(seed), start).run(ops);
    }

    #[test]
    fn the_ipv6_table_does_what_a_list_does(
        capacity in 1usize..24,
        seed in any::<u64>(),
        start in prop_oneof![any::<u32>(), u32::MAX - 5_000..=u32::MAX],
        ops in prop::collection::vec(op(), 1..80),
    ) {
        Pair::<V6>::new(capacity, HashKey::from_seed(seed), start).run(ops);
    }

    #[test]
    fn a_table_whose_keys_share_their_hash_does_what_a_list_does(
        capacity in 1usize..24,
        ops in prop::collection::vec(op(), 1..80),
    ) {
        // Under this key all flows of the first address with itself have one hash.
        let address = u64::from(address::<V4>(0).0);
        Pair::<V4>::new(capacity, HashKey([address << 32 | address, 0, 0, 0]), 0).run(ops);
    }
}
