//! What a look-up in the template table costs, against maps behind locks.
//!
//! `cargo bench --no-default-features --bench template [-- TEMPLATES …]`: for each number of
//! templates, every one looked up in random order, by client address and by a Call-ID of 42 bytes:
//! `staged` in bursts of 32 with bucket and entry fetched ahead, `one by one`, and `locked maps`:
//! 64 standard maps, each behind a standard mutex, with a keyed hash of the same kind. Then the
//! sweep of a full table of which nothing is due. Median and spread (10th and 90th percentile) over
//! windows of 65,536 look-ups in nanoseconds, and the maps' median over the staged one.

mod figure;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use figure::{Figure, Keyed, shuffle, sizes};
use polder::net::{Af, HashKey, Tick};
use polder::table::{DestId, NewTemplate, Origin, ServiceId, TemplateKey, Templates};

const BURST: usize = 32;
const SHARDS: usize = 64;
/// Bytes of a Call-ID.
const CALL_ID: usize = 42;
/// Look-ups of each kind per number of templates, at least.
const OPERATIONS: usize = 4_000_000;

fn main() {
    println!("ns per look-up: median (10th..90th percentile of windows)");
    println!(
        "{:>9} {:>8} {:>22} {:>22} {:>24} {:>7} {:>10}",
        "templates", "key", "staged", "one by one", "locked maps", "ratio", "sweep, µs"
    );
    for templates in sizes(&[100_000, 1_000_000]) {
        for call_ids in [false, true] {
            measure(templates, call_ids);
        }
    }
}

/// The figures for one number of templates.
fn measure(templates: usize, call_ids: bool) {
    let key = HashKey::from_seed(7);
    let table = Templates::new(templates, 1, key).expect("memory for the table");
    let maps = Maps::new(templates, key);
    let mut all: Vec<Owned> = (0..templates).map(|i| Owned::new(i, call_ids)).collect();
    for (i, owned) in (0..).zip(&all) {
        let key = owned.key();
        let new = NewTemplate {
            dest: DestId(i % 16),
            timeout: 30_000,
            origin: Origin::Local,
            source: owned.client,
            service_limit: 0,
            client_limit: 0,
        };
        let placed = table.insert(&key, table.hash(&key), &new, Tick(0));
        placed.expect("room for every template");
        maps.insert(owned.clone(), DestId(i % 16));
    }
    shuffle(&mut all);
    let mut figures = [Figure::default(), Figure::default(), Figure::default()];
    for _ in 0..OPERATIONS.div_ceil(templates).max(2) {
        figures[0].windows(&all, |keys| staged(&table, keys));
        figures[1].windows(&all, |keys| one_by_one(&table, keys));
        figures[2].windows(&all, |keys| maps.look_up(keys));
    }
    let ratio = figures[2].at(50) / figures[0].at(50);
    let [staged, one_by_one, maps] = figures.map(|f| f.to_string());
    let of = if call_ids { "Call-ID" } else { "address" };
    println!(
        "{templates:>9} {of:>8} {staged:>22} {one_by_one:>22} {maps:>24} {ratio:>6.1}x {:>10}",
        sweep_us(&table)
    );
}

/// Microseconds of a full sweep that ends one template.
fn sweep_us(table: &Templates) -> u128 {
    let at = table.get(0);
    table.end(at);
    let start = Instant::now();
    table.sweep(Tick(1), |ended| {
        black_box(ended.dest);
    });
    start.elapsed().as_micros()
}

fn staged(table: &Templates, keys: &[Owned]) {
    let mut hashes = [0; BURST];
    for burst in keys.chunks(BURST) {
        for (key, hash) in burst.iter().zip(&mut hashes) {
            *hash = table.hash(&key.key());
            table.prefetch(*hash);
        }
        hashes[..burst.len()]
            .iter()
            .for_each(|&hash| table.prefetch_entry(hash));
        for (key, &hash) in burst.iter().zip(&hashes) {
            black_box(table.lookup(&key.key(), hash, Tick(1)).expect("there"));
        }
    }
}

fn one_by_one(table: &Templates, keys: &[Owned]) {
    for key in keys {
        let key = key.key();
        let found = table.lookup(&key, table.hash(&key), Tick(1));
        black_box(found.expect("there"));
    }
}

/// A key with its data.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Owned {
    client: [u8; 16],
    data: Option<[u8; CALL_ID]>,
}

impl Owned {
    fn new(i: usize, call_id: bool) -> Self {
        let mut client = [0; 16];
        if call_id {
            let id = format!("{i:023x}@198.51.100.20:5060");
            let data = id.into_bytes().try_into().ok();
            assert!(data.is_some(), "a Call-ID of another length");
            return Self { client, data };
        }
        let address = u32::try_from(i).expect("fewer templates than addresses");
        client[..4].copy_from_slice(&(0x0a00_0000 + address).to_be_bytes());
        Self { client, data: None }
    }

    fn key(&self) -> TemplateKey<'_> {
        TemplateKey {
            service: ServiceId(0),
            af: Af::V4,
            proto: 17,
            client: self.client,
            vaddr: [192; 16],
            vport: 5060,
            data: self.data.as_ref().map(|id| id.as_slice()),
        }
    }
}

type Shard = Mutex<HashMap<Owned, (u32, DestId), Keyed>>;

/// The rival. Its keys lack the fixed parts of a template's, which favours it.
struct Maps {
    shards: Vec<Shard>,
    hash: Keyed,
}

impl Maps {
    fn new(templates: usize, key: HashKey) -> Self {
        let hash = Keyed(key);
        let room = 2 * templates / SHARDS;
        let shard = |_| Mutex::new(HashMap::with_capacity_and_hasher(room, hash.clone()));
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hash,
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn shard(&self, key: &Owned) -> &Shard {
        &self.shards[(self.hash.hash_one(key) >> 20) as usize % SHARDS]
    }

    fn insert(&self, key: Owned, dest: DestId) {
        let mut map = self.shard(&key).lock().expect("one thread");
        map.insert(key, (30_000, dest));
    }

    fn look_up(&self, keys: &[Owned]) {
        for key in keys {
            let map = self.shard(key).lock().expect("one thread");
            black_box(*map.get(key).expect("there"));
        }
    }
}
