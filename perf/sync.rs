//! What state sync costs on one core: records encoded and decoded per second, and the envelope of the `polder` format.
//!
//! `cargo bench --no-default-features --bench sync`, medians with 10th and 90th percentiles over windows:
//! - the `ipvs` format: connections of IPv4 and IPv6 and templates with a Call-ID of 42 bytes, in version 1 and, where it
//!   can carry them, version 0, in messages of 1,472 bytes. `decode` is everything up to what is to be installed;
//! - the `polder` format: the same, connections with and without the id of a template, in bodies of datagrams of 1,472
//!   bytes; and the id and the digest of an entry;
//! - its envelope: a datagram of 1,400 bytes sealed and opened, and the cost of one that is forged;
//! - two whole nodes, authenticated and encrypted: a million connections of IPv4 told for the first time, received and given to the
//!   tables, a pass over them when nothing has changed, and the memory of both mirrors;
//! - the longest single call of what goes over all of a million entries, at once and some at a time, as it is done.

use std::hint::black_box;
use std::time::Instant;

use polder::mgmt::sync::polder::SLICE;
use polder::net::{Addr4, Addr6, Af, HashKey, Tick, V4};
use polder::sync::backup::{Terms, accept};
use polder::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use polder::sync::ipvs::{
    AnyEnds, Builder, ConnRecord, Engine, MAX_LEN_V4, Receiver, Record, Version, flag,
};
use polder::sync::polder::seal::{self, Sealer};
use polder::sync::polder::wire::{self, Kind as Message, Record as Told, StreamBuilder};
use polder::sync::polder::{Config, Keys, Node, Role, To};
use polder::table::{Ends, StateTimeouts};

const WINDOW: usize = 65_536;
const WINDOWS: usize = 64;
const CALL_ID: &[u8; 42] = b"3848276298220188511@atlanta.example.com-01";

#[derive(Clone, Copy)]
enum Kind {
    V4,
    V6,
    Call,
}

fn record(i: u16, kind: Kind) -> Record<'static> {
    let ends = match kind {
        Kind::V6 => AnyEnds::V6(Ends {
            proto: 6,
            caddr: Addr6([1, u64::from(i)]),
            cport: i,
            vaddr: Addr6([2, 2]),
            vport: 80,
            daddr: Addr6([3, 3]),
            dport: 80,
        }),
        Kind::V4 | Kind::Call => AnyEnds::V4(Ends {
            proto: 17,
            caddr: Addr4(u32::from(i)),
            cport: i,
            vaddr: Addr4(2),
            vport: 5060,
            daddr: Addr4(3),
            dport: 5060,
        }),
    };
    let template = matches!(kind, Kind::Call);
    let entry = ConnRecord {
        ends,
        flags: flag::INACTIVE | if template { flag::TEMPLATE } else { 0 },
        state: 0,
        mark: 0,
        timeout_s: 300,
        seq: None,
    };
    let engine = Engine {
        name: b"sip",
        data: CALL_ID,
    };
    Record::new(entry, template.then_some(engine))
}

fn main() {
    ipvs_records();
    polder_records();
    polder_envelope();
    polder_node();
    polder_turns();
}

fn ipvs_records() {
    println!("ipvs format, million records per second: median (10th..90th percentile of windows)");
    println!(
        "{:<16} {:>7} {:>24} {:>24}",
        "records", "version", "encode", "decode"
    );
    for (name, kind, version) in [
        ("IPv4", Kind::V4, Version::V1),
        ("IPv6", Kind::V6, Version::V1),
        ("IPv4 Call-ID", Kind::Call, Version::V1),
        ("IPv4", Kind::V4, Version::V0),
    ] {
        let records: Vec<_> = (0..u16::MAX).map(|i| record(i, kind)).collect();
        let mut messages = Vec::new();
        encode(version, &records, |m| messages.push(m.to_vec()));
        let encoded = windows(|| {
            encode(version, &records, |m| {
                black_box(m);
            })
        });
        let decoded = windows(|| decode(&messages));
        println!(
            "{name:<16} {:>7} {encoded:>24} {decoded:>24}",
            version.number()
        );
    }
}

/// Encodes a window of records; says how many.
fn encode(version: Version, records: &[Record<'_>], mut send: impl FnMut(&[u8])) -> usize {
    let mut builder = Builder::new(version, 1, MAX_LEN_V4);
    for record in records {
        if !builder.push(record).expect("it can be carried") {
            builder.finish().into_iter().for_each(&mut send);
            builder.push(record).expect("it can be carried");
        }
    }
    builder.finish().into_iter().for_each(&mut send);
    records.len()
}

/// Decodes and judges all messages; says how many records were taken.
fn decode(messages: &[Vec<u8>]) -> usize {
    let timeouts = StateTimeouts::default();
    let terms = Terms {
        engines: &["sip"],
        timeouts: &timeouts,
        threshold: 3,
    };
    let receiver = Receiver::default();
    let mut taken = 0;
    for message in messages {
        let message = receiver.open(message).expect("a message");
        for record in message.records() {
            let install = accept(&record.expect("a record"), &terms).expect("a good one");
            black_box(install);
            taken += 1;
        }
    }
    taken
}

/// Million records per second of `run` over windows.
fn windows(mut run: impl FnMut() -> usize) -> String {
    let mut rates: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let start = Instant::now();
            let records = run();
            assert!(records.abs_diff(WINDOW) <= 1, "{records} records");
            records as f64 / start.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let at = |percent: usize| rates[percent * (WINDOWS - 1) / 100];
    format!("{:.1} ({:.1}..{:.1})", at(50), at(10), at(90))
}

/// The same entries for the other format.
fn entry(i: u16, kind: Kind, linked: bool) -> Entry {
    let record = record(i, kind);
    let conn = record.entry();
    let entry = ConnEntry {
        ends: conn.ends,
        mark: 0,
        state: 1,
        flags: 0x100,
        timeout: 30_000,
        remaining: 29_000,
        template: linked.then_some(EntryId(u128::from(i) << 64)),
    };
    let Kind::Call = kind else {
        return Entry::Conn(entry);
    };
    let [_, virtual_, dest] = conn.ends.all();
    let mut data = *CALL_ID;
    data[..2].copy_from_slice(&i.to_be_bytes());
    Entry::Template(Box::new(TemplateEntry {
        service: ServiceName::Address {
            proto: 17,
            addr: virtual_.ip(),
            port: virtual_.port(),
        },
        af: Af::V4,
        proto: 17,
        client: [0; 16],
        vaddr: [0; 16],
        vport: virtual_.port(),
        data: Some(data.into()),
        dest,
        timeout: 30_000,
        remaining: 29_000,
        assured: true,
    }))
}

fn polder_records() {
    println!("\npolder format, million records per second");
    println!(
        "{:<16} {:>24} {:>24} {:>24}",
        "records", "encode", "decode", "id and digest"
    );
    for (name, kind, linked) in [
        ("IPv4", Kind::V4, false),
        ("IPv4 linked", Kind::V4, true),
        ("IPv6 linked", Kind::V6, true),
        ("IPv4 Call-ID", Kind::Call, false),
    ] {
        let entries: Vec<_> = (0..u16::MAX).map(|i| entry(i, kind, linked)).collect();
        let mut bodies = Vec::new();
        tell(&entries, |body| bodies.push(body.to_vec()));
        let encoded = windows(|| {
            tell(&entries, |body| {
                black_box(body);
            })
        });
        let decoded = windows(|| bodies.iter().map(|body| hear(body)).sum());
        let key = HashKey([1, 2, 3, 4]);
        let hashed = windows(|| {
            for entry in &entries {
                black_box((wire::id_of(&key, entry), wire::digest_of(&key, entry)));
            }
            entries.len()
        });
        println!("{name:<16} {encoded:>24} {decoded:>24} {hashed:>24}");
    }
}

/// Encodes a window of entries; says how many.
fn tell(entries: &[Entry], mut send: impl FnMut(&[u8])) -> usize {
    let mut builder = StreamBuilder::new(MAX_LEN_V4);
    let mut seq = 0;
    for entry in entries {
        while !builder.upsert(entry, 28_000) {
            seq += 1;
            builder.finish(seq).into_iter().for_each(&mut send);
        }
    }
    builder.finish(seq + 1).into_iter().for_each(&mut send);
    entries.len()
}

/// Decodes a body; says how many entries it has.
fn hear(body: &[u8]) -> usize {
    let Ok(wire::Message::Stream(stream)) = wire::decode(Message::Stream, body) else {
        panic!("no stream");
    };
    let mut heard = 0;
    for record in stream.records() {
        if let Told::Upsert(entry) = record.expect("a record") {
            black_box(entry);
            heard += 1;
        }
    }
    heard
}

/// Datagrams of one window.
const DATAGRAMS: usize = 2000;

fn polder_envelope() {
    let text = format!("1 {}", "0123456789abcdef".repeat(4));
    let keys = Keys::parse(&text).expect("a good key");
    let body = vec![7; 1400 - seal::OVERHEAD];
    println!("\npolder envelope, nanoseconds for a datagram of 1,400 bytes");
    println!(
        "{:<16} {:>22} {:>22} {:>22}",
        "", "seal", "open", "reject a forged one"
    );
    for (name, encrypt) in [("authenticated", false), ("encrypted", true)] {
        let mut sealer = Sealer::new(5, keys.clone());
        let mut out = Vec::new();
        let sealed = each(|| {
            sealer.seal(Message::Stream, 0, encrypt, &body, &mut out);
            black_box(&out);
        });
        let good = out.clone();
        let mut datagram = good.clone();
        let opened = each(|| {
            datagram.copy_from_slice(&good);
            black_box(seal::open(&keys, &mut datagram)).expect("it is genuine");
        });
        let mut forged = good.clone();
        forged[700] ^= 1;
        let rejected = each(|| {
            black_box(seal::open(&keys, &mut forged)).expect_err("it is forged");
        });
        println!("{name:<16} {sealed:>22} {opened:>22} {rejected:>22}");
    }
    let mut noise = vec![0x5a; 1400];
    let noise = each(|| {
        black_box(seal::open(&keys, &mut noise)).expect_err("it is noise");
    });
    println!("{:<16} {:>22} {:>22} {noise:>22}", "noise", "", "");
}

/// Nanoseconds of one `run` over windows.
fn each(mut run: impl FnMut()) -> String {
    let mut costs: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let start = Instant::now();
            (0..DATAGRAMS).for_each(|_| run());
            start.elapsed().as_secs_f64() * 1e9 / DATAGRAMS as f64
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    let at = |percent: usize| costs[percent * (WINDOWS - 1) / 100];
    format!("{:.0} ({:.0}..{:.0})", at(50), at(10), at(90))
}

/// Connections of a node.
const CONNS: u32 = 1_000_000;

fn node(role: Role, boot: u64, slice: u32) -> Node {
    let config = Config {
        role,
        sync_id: 0,
        name: format!("node{boot}"),
        max_len: MAX_LEN_V4,
        encrypt: true,
        entries_max: 2 * CONNS as usize,
        queue_max: CONNS as usize,
        slice,
        interval: 100,
        ready_coverage: 0.99,
        ready_timeout: 3000,
    };
    let text = format!("1 {}", "0123456789abcdef".repeat(4));
    let keys = Keys::parse(&text).expect("a good key");
    Node::new(config, keys, boot, Tick(0))
}

fn connection(i: u32, remaining: u32) -> Entry {
    Entry::Conn(ConnEntry {
        ends: AnyEnds::V4(Ends::<V4> {
            proto: 6,
            caddr: Addr4(i),
            cport: 1025,
            vaddr: Addr4(2),
            vport: 443,
            daddr: Addr4(0x0a00_0000 + i % 100),
            dport: 443,
        }),
        mark: 0,
        state: 1,
        flags: 0,
        timeout: 90_000,
        remaining,
        template: None,
    })
}

fn pass(node: &mut Node, now: Tick) {
    node.pass_begin(now);
    for i in 0..CONNS {
        node.pass_entry(now, connection(i, 90_000 - now.0));
    }
    while !node.pass_end(now) {}
}

/// Nanoseconds per connection of `run`.
fn per_conn(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CONNS)
}

/// Bytes of memory that this process has touched.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.unwrap_or(0u64) * 4096
}

/// Lets two nodes talk for a tick; what the first sends goes to `keep` if there is one.
fn talk(a: &mut Node, b: &mut Node, now: Tick, keep: &mut Option<Vec<Vec<u8>>>) {
    let (at_a, at_b) = (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 1).into());
    a.poll(now);
    b.poll(now);
    while let Some(mut send) = a.next_send(now) {
        match (keep.as_mut(), send.to) {
            (Some(kept), To::Group) => kept.push(send.bytes),
            _ => b.receive(now, at_a, &mut send.bytes),
        }
    }
    while let Some(mut send) = b.next_send(now) {
        a.receive(now, at_b, &mut send.bytes);
    }
}

fn polder_node() {
    println!("\npolder nodes, {CONNS} connections, nanoseconds per connection");
    let (mut master, mut backup) = (node(Role::Master, 1, SLICE), node(Role::Backup, 2, SLICE));
    let mut now = Tick(1);
    for _ in 0..100 {
        now = now.plus(1);
        talk(&mut master, &mut backup, now, &mut None);
    }
    let before = resident();
    println!(
        "{:<40} {:>8.0}",
        "told: new in a pass",
        per_conn(|| pass(&mut master, now))
    );
    let mut kept = Some(Vec::new());
    let sealed = per_conn(|| {
        while master.queued() > 0 {
            now = now.plus(1);
            talk(&mut master, &mut backup, now, &mut kept);
        }
    });
    println!("{:<40} {sealed:>8.0}", "told: sealed");
    let told = resident();
    let mut datagrams = kept.take().unwrap_or_default();
    let bytes: u64 = datagrams.iter().map(|d| d.len() as u64).sum();
    let received = per_conn(|| {
        for datagram in &mut datagrams {
            backup.receive(now, ([192, 0, 2, 1], 1).into(), datagram);
        }
    });
    println!("{:<40} {received:>8.0}", "heard: opened, decoded, kept");
    let heard = resident();
    let applied = per_conn(|| {
        while let Some(apply) = backup.next_apply(now) {
            backup.applied(apply.peer, apply.id, true);
            black_box(apply);
        }
    });
    println!("{:<40} {applied:>8.0}", "heard: given to the tables");
    for _ in 0..3 {
        now = now.plus(100);
        let same = per_conn(|| pass(&mut master, now));
        println!("{:<40} {same:>8.0}", "told: nothing new in a pass");
    }
    let each = |a: u64, b: u64| b.saturating_sub(a) as f64 / f64::from(CONNS);
    // What was kept to be received is no part of a node.
    println!(
        "bytes per connection: {:.0} of the master with its history, {:.0} of the backup, {:.1} on the wire",
        each(before + bytes, told),
        each(told, heard),
        bytes as f64 / f64::from(CONNS),
    );
    assert_eq!(
        backup.receivers().map(|r| r.entries()).sum::<usize>(),
        CONNS as usize
    );
}

/// The longest of some calls.
#[derive(Default)]
struct Longest {
    milliseconds: f64,
    calls: u32,
}

impl Longest {
    fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = run();
        self.milliseconds = self.milliseconds.max(start.elapsed().as_secs_f64() * 1e3);
        self.calls += 1;
        made
    }
}

/// What goes over all entries, by the calls that do it.
fn polder_turns() {
    println!("\npolder nodes, {CONNS} entries, longest call in milliseconds and number of calls");
    let all = turns(u32::MAX);
    let some = turns(SLICE);
    println!("{:<40} {:>18} {:>18}", "", "all at once", "some at a time");
    for ((what, all), (_, some)) in all.iter().zip(&some) {
        let text = |l: &Longest| format!("{:.1} ({})", l.milliseconds, l.calls);
        println!("{what:<40} {:>18} {:>18}", text(all), text(some));
    }
}

/// A connection that names a template.
fn linked(i: u32, template: EntryId) -> Entry {
    match connection(i, 6000) {
        Entry::Conn(conn) => Entry::Conn(ConnEntry {
            template: Some(template),
            timeout: 6000,
            ..conn
        }),
        other => other,
    }
}

/// Calls `poll` until there is nothing left to go on with.
fn work(node: &mut Node, now: Tick) -> Longest {
    let mut longest = Longest::default();
    loop {
        longest.time(|| node.poll(now));
        if node.wake_at(now) != Some(now) || longest.calls > 2 * CONNS {
            return longest;
        }
        while let Some(send) = node.next_send(now) {
            node.sent(send.bytes);
        }
    }
}

fn install(node: &mut Node, now: Tick, takes: bool) -> usize {
    let mut ids = Vec::new();
    while let Some(apply) = node.next_apply(now) {
        ids.push((apply.peer, apply.id));
    }
    for (peer, id) in &ids {
        node.applied(*peer, *id, takes);
    }
    ids.len()
}

fn turns(slice: u32) -> Vec<(&'static str, Longest)> {
    let (mut master, mut backup) = (node(Role::Master, 1, slice), node(Role::Backup, 2, slice));
    let mut now = Tick(1);
    let mut run = |master: &mut Node, backup: &mut Node, ticks: u32| {
        for _ in 0..ticks {
            now = now.plus(1);
            talk(master, backup, now, &mut None);
        }
        now
    };
    let at = run(&mut master, &mut backup, 100);
    let Entry::Template(template) = entry(7, Kind::Call, false) else {
        unreachable!("a call is a template");
    };
    let id = master.template_id(&template);
    master.pass_begin(at);
    for i in 0..CONNS {
        master.pass_entry(at, linked(i, id));
    }
    while !master.pass_end(at) {}
    let mut found = Vec::new();
    while master.queued() > 0 {
        run(&mut master, &mut backup, 1);
    }
    // All of them begin to wait for the template.
    let at = run(&mut master, &mut backup, 1);
    assert_eq!(install(&mut backup, at, true), 0);
    let mut at = run(&mut master, &mut backup, 24);
    let mut longest = Longest::default();
    for _ in 0..200 {
        at = at.plus(1);
        master.poll(at);
        while let Some(mut send) = master.next_send(at) {
            let from = ([192, 0, 2, 1], 1).into();
            longest.time(|| backup.receive(at, from, &mut send.bytes));
        }
        longest.time(|| backup.poll(at));
        while longest.time(|| backup.work(at)) {}
    }
    found.push(("connections that wait for a template", longest));
    assert_eq!(install(&mut backup, at, true), CONNS as usize);
    master.pass_begin(at);
    master.pass_entry(at, Entry::Template(template));
    for i in 0..CONNS {
        master.pass_entry(at, linked(i, id));
    }
    while !master.pass_end(at) {}
    let mut longest = Longest::default();
    for _ in 0..200 {
        at = at.plus(1);
        master.poll(at);
        while let Some(mut send) = master.next_send(at) {
            let from = ([192, 0, 2, 1], 1).into();
            longest.time(|| backup.receive(at, from, &mut send.bytes));
        }
        longest.time(|| backup.poll(at));
        while longest.time(|| backup.work(at)) {}
    }
    found.push(("connections whose template came late", longest));
    assert_eq!(install(&mut backup, at, false), CONNS as usize + 1);
    while let Some(send) = backup.next_send(at) {
        backup.sent(send.bytes);
    }
    let mut longest = Longest::default();
    longest.time(|| backup.retry_uninstalled());
    let Longest {
        milliseconds,
        calls,
    } = work(&mut backup, at);
    longest.milliseconds = longest.milliseconds.max(milliseconds);
    longest.calls += calls;
    found.push(("what was not installed, tried again", longest));
    assert_eq!(install(&mut backup, at, true), CONNS as usize + 1);
    master.pass_begin(at);
    let mut longest = Longest::default();
    while !longest.time(|| master.pass_end(at)) {}
    found.push(("entries that are gone, told", longest));
    // The backup hears nothing of that.
    at = at.plus(8000);
    while let Some(send) = backup.next_send(at) {
        backup.sent(send.bytes);
    }
    found.push(("entries of a silent peer, dropped", work(&mut backup, at)));
    found.push(("a mirror, freed", mirror_freed(slice)));
    found
}

/// Templates, which have memory of their own.
fn mirror_freed(slice: u32) -> Longest {
    let (mut master, mut backup) = (node(Role::Master, 1, slice), node(Role::Backup, 2, slice));
    let mut now = Tick(1);
    for _ in 0..100 {
        now = now.plus(1);
        talk(&mut master, &mut backup, now, &mut None);
    }
    master.pass_begin(now);
    let Entry::Template(mut template) = entry(7, Kind::Call, false) else {
        unreachable!("a call is a template");
    };
    for i in 0..CONNS {
        template.client[..4].copy_from_slice(&i.to_be_bytes());
        (template.timeout, template.remaining) = (1 << 20, 1 << 20);
        master.pass_entry(now, Entry::Template(template.clone()));
    }
    while !master.pass_end(now) {}
    while master.queued() > 0 {
        now = now.plus(1);
        talk(&mut master, &mut backup, now, &mut None);
    }
    install(&mut backup, now, true);
    now = now.plus(20_000);
    work(&mut backup, now);
    now = now.plus(20_000);
    let mut longest = Longest::default();
    longest.time(|| backup.poll(now));
    while let Some(send) = backup.next_send(now) {
        backup.sent(send.bytes);
    }
    let Longest {
        milliseconds,
        calls,
    } = work(&mut backup, now);
    longest.milliseconds = longest.milliseconds.max(milliseconds);
    longest.calls += calls;
    assert_eq!(backup.receivers().count(), 0);
    longest
}
