//! What a hit in the connection table costs, and what making and ending a connection costs.
//!
//! `cargo bench --no-default-features --bench conn_table [-- FLOWS …]`: for each number of flows, all rounds in turn:
//! looked up in bursts of 32 (staged), one by one, and in a `hashbrown` map of the same records with the same keyed hash; every flow once per
//! round, in random order, each hit noting the packet's tick and reading the real server. Then `churn`: what a
//! short-lived connection costs with so many live: its first packet's lookup (in a burst), its insertion, and its expiry. Median and spread (10th and 90th percentile)
//! over windows of 65,536 operations, in nanoseconds per operation.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::time::Instant;

use hashbrown::HashMap;
use polder::net::packet::proto;
use polder::net::{Addr4, FlowKey, HashKey, Tick, V4};
use polder::table::{Conn, ConnTable, Ends, Expiry, Method};

const BURST: usize = 32;
const WINDOW: usize = 65_536;
/// Operations of each kind per number of flows, at least.
const OPERATIONS: usize = 4_000_000;

fn main() {
    let asked: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let flows = if asked.is_empty() {
        vec![1_000, 100_000, 1_000_000, 4_000_000]
    } else {
        asked
    };
    println!("ns per operation: median (10th..90th percentile of windows)");
    println!(
        "{:>9} {:>24} {:>24} {:>24} {:>24} {:>24}",
        "flows", "staged", "one by one", "hashbrown", "churn masq", "churn direct"
    );
    for flows in flows {
        let cells = measure(flows);
        print!("{flows:>9}");
        cells
            .iter()
            .for_each(|cell| print!(" {:>24}", cell.to_string()));
        println!();
    }
}

/// The figures for one number of flows.
fn measure(flows: usize) -> Vec<Figure> {
    let key = HashKey::from_seed(7);
    let mut table = ConnTable::<V4>::new(flows, key).expect("memory for the table");
    let mut map = HashMap::with_capacity_and_hasher(2 * flows, Keyed(key));
    let mut indices = Vec::with_capacity(flows);
    for i in 0..flows {
        let conn = conn(i, Method::Masq);
        indices.push(table.insert(&conn, Tick(0)).expect("room for every flow"));
        map.insert(conn.request_key(), conn);
        map.insert(conn.reply_key().expect("masquerading"), conn);
    }
    let keys = shuffled_keys(flows);
    let rounds = OPERATIONS.div_ceil(keys.len()).max(2);
    let mut figures = [Figure::default(), Figure::default(), Figure::default()];
    for round in 0..rounds {
        let now = Tick(u32::try_from(round).expect("few rounds"));
        figures[0].windows(&keys, |keys| staged(&mut table, keys, now));
        figures[1].windows(&keys, |keys| one_by_one(&mut table, keys, now));
        figures[2].windows(&keys, |keys| hashbrown(&mut map, keys, now));
    }
    drop((table, map));
    let mut figures = figures.to_vec();
    figures.push(churn(flows, Method::Masq));
    figures.push(churn(flows, Method::Direct));
    figures
}

fn staged(table: &mut ConnTable<V4>, keys: &[FlowKey<V4>], now: Tick) {
    let mut out = [None; BURST];
    for burst in keys.chunks(BURST) {
        table.lookup_burst(burst, &mut out);
        for hit in &out[..burst.len()] {
            let index = hit.expect("every flow is there").index;
            table.touch(index, now);
            black_box(table.get(index).dest);
        }
    }
}

fn one_by_one(table: &mut ConnTable<V4>, keys: &[FlowKey<V4>], now: Tick) {
    for key in keys {
        let index = table.lookup(key).expect("every flow is there").index;
        table.touch(index, now);
        black_box(table.get(index).dest);
    }
}

fn hashbrown(map: &mut HashMap<FlowKey<V4>, Conn<V4>, Keyed>, keys: &[FlowKey<V4>], now: Tick) {
    for key in keys {
        let conn = map.get_mut(key).expect("every flow is there");
        conn.mark = now.0;
        black_box(conn.dest);
    }
}

/// A table that is kept full by connections that each live for the same time: one comes, one goes.
fn churn(flows: usize, method: Method) -> Figure {
    let per_tick = BURST * 64;
    let mut table = ConnTable::<V4>::new(flows + 3 * per_tick, HashKey::from_seed(7))
        .expect("memory for the table");
    // So many connections come per tick that the first ends when all are there.
    let life = u32::try_from(flows.div_ceil(per_tick)).expect("a sane number of flows");
    let mut made = 0;
    let mut out = [None; BURST];
    let mut make = |table: &mut ConnTable<V4>, now| {
        let conns: [_; BURST] = std::array::from_fn(|i| conn(made + i, method).with_timeout(life));
        made += BURST;
        table.lookup_burst(&conns.each_ref().map(Conn::request_key), &mut out);
        for conn in &conns {
            black_box(table.insert(conn, now).expect("room for one more"));
        }
    };
    let mut figure = Figure::default();
    let (mut tick, mut done) = (Tick(0), 0);
    while done < OPERATIONS + 2 * flows {
        let start = Instant::now();
        for _ in 0..WINDOW / per_tick {
            for _ in 0..per_tick / BURST {
                table.expire(tick, 4 * BURST, |_, _| Expiry::Remove);
                make(&mut table, tick);
                done += BURST;
            }
            tick = tick.plus(1);
        }
        if done > flows {
            figure.add(start, WINDOW);
        }
    }
    figure
}

fn conn(i: usize, method: Method) -> Conn<V4> {
    let i = u32::try_from(i).expect("fewer flows than addresses");
    #[allow(clippy::cast_possible_truncation)]
    let cport = 1024 + (i % 60_000) as u16;
    let ends = Ends {
        proto: proto::UDP,
        caddr: Addr4(0x0a00_0000 + i / 60_000),
        cport,
        vaddr: Addr4(0xc000_0201),
        vport: 443,
        daddr: Addr4(0xac10_0000 + i % 16),
        dport: 8443,
    };
    Conn::new(&ends, method).with_timeout(30_000)
}

/// Half of the flows by the client's packet, half by the server's, in random order.
fn shuffled_keys(flows: usize) -> Vec<FlowKey<V4>> {
    let mut keys: Vec<_> = (0..flows)
        .map(|i| conn(i, Method::Masq))
        .enumerate()
        .map(|(i, c)| {
            if i % 2 == 0 {
                c.request_key()
            } else {
                c.reply_key().expect("masq")
            }
        })
        .collect();
    let mut seed = 1u64;
    for i in (1..keys.len()).rev() {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        keys.swap(i, (seed >> 33) as usize % (i + 1));
    }
    keys
}

/// Nanoseconds per operation, by window.
#[derive(Clone, Default)]
struct Figure(Vec<f64>);

impl Figure {
    fn windows(&mut self, keys: &[FlowKey<V4>], mut run: impl FnMut(&[FlowKey<V4>])) {
        let repeat = WINDOW.div_ceil(keys.len()).max(1);
        for window in keys.chunks(WINDOW) {
            let start = Instant::now();
            (0..repeat).for_each(|_| run(window));
            self.add(start, window.len() * repeat);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn add(&mut self, start: Instant, operations: usize) {
        self.0
            .push(start.elapsed().as_nanos() as f64 / operations as f64);
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        write!(f, "{:.1} ({:.1}..{:.1})", at(50), at(10), at(90))
    }
}

/// The table's own hash for `hashbrown`.
#[derive(Clone)]
struct Keyed(HashKey);

impl BuildHasher for Keyed {
    type Hasher = Fold;
    fn build_hasher(&self) -> Fold {
        Fold {
            state: self.0.0[0],
            key: self.0.0[1] | 1,
        }
    }
}

/// A multiply-fold hash over the key's fields.
struct Fold {
    state: u64,
    key: u64,
}

impl Fold {
    #[allow(clippy::cast_possible_truncation)]
    fn word(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.state
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.word(u64::from(b)));
    }
    fn write_u8(&mut self, v: u8) {
        self.word(u64::from(v));
    }
    fn write_u16(&mut self, v: u16) {
        self.word(u64::from(v));
    }
    fn write_u32(&mut self, v: u32) {
        self.word(u64::from(v));
    }
}
