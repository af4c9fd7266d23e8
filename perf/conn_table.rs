//! What a hit in the connection table costs, and what making and ending a connection costs.
//!
//! `cargo bench --no-default-features --bench conn_table [-- FLOWS …]`: for each number of flows,
//! all rounds in turn: looked up in bursts of 32 (staged), one by one, and in a `hashbrown` map of
//! the same records with a keyed hash of that kind; every flow once per round, in random order, each hit
//! noting the packet's tick and reading the real server. Then `churn`: what a short-lived
//! connection costs with so many live: its first packet's lookup (in a burst), its insertion, and
//! its expiry; `fetched` is with the reply's bucket fetched ahead, as a director does between
//! choosing the server and storing. Median and spread (10th and 90th percentile) over windows of
//! 65,536 operations, in nanoseconds per operation.

mod figure;

use std::hint::black_box;
use std::time::Instant;

use figure::{Figure, Keyed, WINDOW, shuffle, sizes};
use hashbrown::HashMap;
use polder::net::packet::proto;
use polder::net::{Addr4, FlowKey, HashKey, Tick, V4};
use polder::table::{Conn, ConnTable, Ends, Expiry, Method};

const BURST: usize = 32;
/// Operations of each kind per number of flows, at least.
const OPERATIONS: usize = 4_000_000;

fn main() {
    println!("ns per operation: median (10th..90th percentile of windows)");
    println!(
        "{:>9} {:>22} {:>22} {:>22} {:>22} {:>22} {:>22}",
        "flows", "staged", "one by one", "hashbrown", "churn masq", "masq, fetched", "churn direct"
    );
    for flows in sizes(&[1_000, 100_000, 1_000_000, 4_000_000]) {
        let cells = measure(flows);
        print!("{flows:>9}");
        cells
            .iter()
            .for_each(|cell| print!(" {:>22}", cell.to_string()));
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
    figures.push(churn(flows, Method::Masq, false));
    figures.push(churn(flows, Method::Masq, true));
    figures.push(churn(flows, Method::Direct, false));
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
fn churn(flows: usize, method: Method, fetch_ahead: bool) -> Figure {
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
        if fetch_ahead {
            conns.iter().for_each(|conn| table.prefetch_insert(conn));
        }
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
    shuffle(&mut keys);
    keys
}
